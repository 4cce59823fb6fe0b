"""HTTP and sockets enter here."""

import asyncio
import os
from contextlib import closing
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "netra.settings")
django.setup(set_prefix=False)

# Models can be imported only once Django is set up.
from channels.routing import ProtocolTypeRouter  # noqa: E402
from django.conf import settings  # noqa: E402
from django.core.exceptions import RequestAborted  # noqa: E402
from django.core.handlers.asgi import ASGIHandler, ASGIRequest  # noqa: E402
from django.core.handlers.base import BaseHandler  # noqa: E402
from django.core.signals import request_finished, request_started  # noqa: E402
from django.db import close_old_connections, reset_queries  # noqa: E402
from django.http import FileResponse  # noqa: E402
from django.http.response import HttpResponseBase  # noqa: E402
from django.urls import get_resolver, set_script_prefix  # noqa: E402

from apps.operations.database import in_request  # noqa: E402
from apps.operations.memory import keep_what_is_loaded  # noqa: E402
from netra.routing import socket_application  # noqa: E402

# A request's thread keeps its connection for the next request: `in_request` says when it goes back.
request_started.disconnect(close_old_connections)
request_finished.disconnect(close_old_connections)
if not settings.DEBUG:
    request_started.disconnect(reset_queries)  # nothing is written down


class RequestThreads(ASGIHandler):
    """Answers a request on one thread, from the first middleware to the last, and gives its connection back with it.

    Django's own way changes threads for each middleware that is not asynchronous, for both signals and for closing the
    answer, and keeps the connection for as long as the answer is streamed: twenty followed threads would be the end of
    the pool.
    """

    def __init__(self) -> None:
        BaseHandler.__init__(self)
        self.load_middleware(is_async=False)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        with closing(body):
            request, response = self.create_request(scope, body)
            if request is not None:
                response = await in_request(self._answer, request)
        assert response is not None  # noqa: S101  # one of the two is there
        if response.streaming:
            await self._stream(response, receive, send)
        else:
            await self.send_response(response, send)

    def _answer(self, request: ASGIRequest) -> HttpResponseBase:
        set_script_prefix(request.script_name or "/")
        request_started.send(sender=self.__class__, scope=request.scope)
        response = self.get_response(request)
        response._handler_class = self.__class__  # type: ignore[attr-defined]
        if isinstance(response, FileResponse):
            response.block_size = self.chunk_size
        if not response.streaming:
            response.close()
        return response

    async def _stream(self, response: HttpResponseBase, receive: Any, send: Any) -> None:
        """Send the answer until it ends or the client leaves."""
        sending = asyncio.create_task(self.send_response(response, send))
        leaving = asyncio.create_task(receive())
        leaving.add_done_callback(lambda _: sending.cancel())
        try:
            await sending
        except asyncio.CancelledError:
            if not leaving.done():
                raise
        finally:
            leaving.cancel()
            response.close()


application = ProtocolTypeRouter({"http": RequestThreads(), "websocket": socket_application})

get_resolver().url_patterns  # noqa: B018  # loads the views
keep_what_is_loaded()
