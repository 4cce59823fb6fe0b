"""What every line of the log says about the request it belongs to."""

from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject
from django_structlog.middlewares import RequestMiddleware


class RequestLog(RequestMiddleware):
    """Binds the request's id, address and user, except that a request with an API key is not asked for a session."""

    @staticmethod
    def bind_user_id(request: HttpRequest) -> None:
        # REST puts the key's user in the place of the session's once the key is known.
        if isinstance(request.user, SimpleLazyObject) and "HTTP_AUTHORIZATION" in request.META:
            return
        RequestMiddleware.bind_user_id(request)
