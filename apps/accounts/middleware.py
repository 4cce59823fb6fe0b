"""What happens to a request before anybody knows who sent it."""

import re
from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse

_SESSION_KEY = re.compile(r"[a-z0-9]{8,40}")


def is_session_key(text: str | None) -> bool:
    """Whether `text` can be a session's key; the database refuses some that cannot."""
    return text is not None and _SESSION_KEY.fullmatch(text) is not None


class ForgetMalformedSession:
    """A session cookie that we cannot have given counts as none."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if not is_session_key(request.COOKIES.get(settings.SESSION_COOKIE_NAME)):
            request.COOKIES.pop(settings.SESSION_COOKIE_NAME, None)
        return self._get_response(request)
