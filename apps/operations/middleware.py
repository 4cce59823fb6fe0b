"""What every line of the log says about the request it belongs to."""

from django.conf import settings
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject
from django_structlog.middlewares import RequestMiddleware
from structlog.contextvars import bind_contextvars

FORWARDED = frozenset({"HTTP_X_FORWARDED_FOR", "HTTP_X_REAL_IP", "HTTP_FORWARDED"})  # what proxies say


class RequestLog(RequestMiddleware):
    """Binds the request's id, address and user.

    A request with an API key is not asked for a session, and one without a proxy not for what proxies say.
    """

    @classmethod
    def bind_ip(cls, request: HttpRequest) -> None:
        if FORWARDED.isdisjoint(request.META):
            bind_contextvars(ip=request.META.get("REMOTE_ADDR"))
        else:
            super().bind_ip(request)

    @staticmethod
    def bind_user_id(request: HttpRequest) -> None:
        # REST puts the key's user in the place of the session's once the key is known.
        keyed = "HTTP_AUTHORIZATION" in request.META and settings.SESSION_COOKIE_NAME not in request.COOKIES
        if keyed and isinstance(request.user, SimpleLazyObject):
            return
        RequestMiddleware.bind_user_id(request)
