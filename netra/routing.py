"""Sockets: client message -> handler. The whole socket API on one screen."""

from channels.routing import URLRouter

socket_application = URLRouter([])
