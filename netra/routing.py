"""Sockets: client message -> handler. With the protocol's own messages (hello, thread.subscribe, thread.unsubscribe,
ack, ping: `apps/realtime/consumers.py`) this is the whole socket API."""

from channels.routing import URLRouter
from django.urls import path

from apps.conversations.source import JournalSource
from apps.execution import handlers
from apps.realtime.consumers import NetraConsumer
from apps.realtime.router import Handler, MessageRouter

HANDLERS: dict[str, Handler] = {
    "message.send": handlers.send_message,
    "run.answer": handlers.answer_run,
    "run.cancel": handlers.cancel_run,
}

consumer = NetraConsumer(router=MessageRouter(HANDLERS), source=JournalSource())
socket_application = URLRouter([path("ws/", consumer)])  # type: ignore[arg-type]  # channels routes ASGI applications
