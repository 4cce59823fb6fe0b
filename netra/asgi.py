"""HTTP and sockets enter here."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "netra.settings")
http_application = get_asgi_application()

# Models can be imported only once Django is set up.
from channels.routing import ProtocolTypeRouter  # noqa: E402

from netra.routing import socket_application  # noqa: E402

application = ProtocolTypeRouter({"http": http_application, "websocket": socket_application})
