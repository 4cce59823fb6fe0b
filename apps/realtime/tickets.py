"""Single-use tickets, for sockets opened by clients that hold an API key instead of a cookie."""

import json
import secrets
from dataclasses import dataclass

import redis
from django.conf import settings

from apps.accounts.models import ApiKey, User
from apps.accounts.tenancy import Principal, principal_for

LIFETIME = 30  # seconds


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """Shown once; whoever redeems it first acts as its holder."""

    value: str
    expires_in: int  # seconds


def issue(*, user: User, key: ApiKey | None) -> Ticket:
    """A ticket for `user`, with no more rights than `key` has."""
    value = secrets.token_urlsafe(32)
    holder = json.dumps({"user": str(user.pk), "key": key.pk if key else None})
    with _redis() as client:
        client.set(_name(value), holder, ex=LIFETIME)
    return Ticket(value=value, expires_in=LIFETIME)


def redeem(value: str) -> Principal | None:
    """The holder's principal, once; None for a ticket that is unknown, used or older than `LIFETIME`.

    Raises:
        NoOrganization: the holder has been removed meanwhile.
    """
    with _redis() as client:
        found = client.getdel(_name(value))
    if not isinstance(found, bytes):
        return None
    holder = json.loads(found)
    user = User.objects.filter(pk=holder["user"], is_active=True).first()
    if user is None:
        return None
    if holder["key"] is None:
        return principal_for(user=user)
    key = ApiKey.objects.usable().filter(pk=holder["key"], user=user).first()
    return principal_for(user=user, key=key) if key else None


def _name(value: str) -> str:
    return f"netra:ticket:{value}"


def _redis() -> redis.Redis:
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=2)
