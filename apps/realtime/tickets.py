"""Single-use tickets, for sockets opened by clients that hold an API key instead of a cookie."""

import json
import secrets
from dataclasses import asdict, dataclass

import redis
from django.conf import settings

from apps.accounts.tenancy import Holder

LIFETIME = 30  # seconds


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """Shown once; whoever redeems it first acts as its holder."""

    value: str
    expires_in: int  # seconds


def issue(holder: Holder) -> Ticket:
    """A ticket with the rights of `holder`, no more."""
    value = secrets.token_urlsafe(32)
    with _redis() as client:
        client.set(_name(value), json.dumps(asdict(holder)), ex=LIFETIME)
    return Ticket(value=value, expires_in=LIFETIME)


def redeem(value: str) -> Holder | None:
    """Whose ticket it is, once; None for a ticket that is unknown, used or older than `LIFETIME`."""
    with _redis() as client:
        found = client.getdel(_name(value))
    return Holder(**json.loads(found)) if isinstance(found, bytes) else None


def _name(value: str) -> str:
    return f"netra:ticket:{value}"


def _redis() -> redis.Redis:
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=2)
