"""Who is on the other end of a socket."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.sessions.backends.db import SessionStore
from django.http import parse_cookie
from django.http.request import split_domain_port, validate_host

from apps.accounts.middleware import is_session_key
from apps.accounts.models import User
from apps.accounts.tenancy import Holder, Principal, principal_for
from apps.operations.database import in_database
from apps.realtime import tickets


def header(scope: Mapping[str, Any], name: bytes) -> str | None:
    """One header of the handshake, None where absent."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


def origin_is_ours(scope: Mapping[str, Any]) -> bool:
    """Whether a page of this site opened the socket; True also where no page did (no Origin header).

    Cookies travel with sockets opened by any page, so the origin must equal the host that was asked, or be listed in
    CSRF_TRUSTED_ORIGINS; `Origin: null` is nobody's page.
    """
    origin = header(scope, b"origin")
    if origin is None:
        return True
    host = header(scope, b"host") or ""
    if not validate_host(split_domain_port(host)[0], settings.ALLOWED_HOSTS):
        return False
    return origin in settings.CSRF_TRUSTED_ORIGINS or (
        urlsplit(origin).netloc == host and urlsplit(origin).scheme in ("http", "https")
    )


async def principal_of_session(scope: Mapping[str, Any]) -> Principal | None:
    """The principal of the session cookie, read afresh; None when signed out, or when no page opened the socket.

    Raises:
        NoOrganization: see `principal_for`.
    """
    if header(scope, b"origin") is None:
        return None
    key = parse_cookie(header(scope, b"cookie") or "").get(settings.SESSION_COOKIE_NAME)
    return await in_database(_principal_of_session_key, key) if key and is_session_key(key) else None


def _principal_of_session_key(key: str) -> Principal | None:
    user = get_user(SimpleNamespace(session=SessionStore(key)))  # type: ignore[arg-type]
    return principal_for(user=user) if isinstance(user, User) else None


async def holder_of_ticket(value: str) -> Holder | None:
    """Whom a ticket stands for; None for one that does not count. It counts once."""
    return await in_database(tickets.redeem, value)
