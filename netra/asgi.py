"""HTTP and sockets enter here."""

import os
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "netra.settings")
django.setup(set_prefix=False)

# Models can be imported only once Django is set up.
from channels.routing import ProtocolTypeRouter  # noqa: E402
from django.core.handlers.asgi import ASGIHandler  # noqa: E402
from django.core.handlers.base import BaseHandler  # noqa: E402
from django.http import HttpRequest  # noqa: E402
from django.http.response import HttpResponseBase  # noqa: E402

from apps.operations.database import in_request  # noqa: E402
from netra.routing import socket_application  # noqa: E402


class RequestThreads(ASGIHandler):
    """Answers a request on one thread, from the first middleware to the last, and gives its connection back with it.

    Django's own way changes threads for each middleware that is not asynchronous, and keeps the connection for as long
    as the answer is streamed: twenty followed threads would be the end of the pool.
    """

    def __init__(self) -> None:
        BaseHandler.__init__(self)
        self.load_middleware(is_async=False)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.handle(scope, receive, send)

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        return await in_request(self.get_response, request)


application = ProtocolTypeRouter({"http": RequestThreads(), "websocket": socket_application})
