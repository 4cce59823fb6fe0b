"""API keys in the `Authorization: Bearer` header."""

from hmac import compare_digest
from typing import Any

from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from knox.auth import TokenAuthentication
from knox.crypto import hash_token
from knox.settings import CONSTANTS
from rest_framework.exceptions import AuthenticationFailed

from apps.accounts.models import ApiKey, User
from apps.accounts.tenancy import principal_by_key
from apps.statements import Row, fetch, loaded

LAST_USED_EVERY = 60.0  # seconds between two notes of a key's use


def name_to_lock(request: Any, credentials: dict[str, Any] | None = None) -> str:
    """The name that failed sign-ins are counted under: however it is spelled, it is one account."""
    given = (credentials or {}).get("username") or (request.POST.get("username", "") if request is not None else "")
    return str(given).replace("\x00", "").strip().lower()[:254]


_KEYS = """
select key.digest, key.token_key, key.scope, key.expiry, key.last_used_at, key.organization_id, key.user_id,
    person.id, person.email, person.name, person.is_active, person.is_staff, person.is_superuser,
    membership.role, organization.plan_id
from accounts_apikey key
join accounts_user person on person.id = key.user_id
join accounts_organization organization on organization.id = key.organization_id
left join accounts_membership membership
    on membership.organization_id = key.organization_id and membership.user_id = key.user_id
where key.token_key = %(beginning)s
"""
_KEY_FIELDS = ("digest", "token_key", "scope", "expiry", "last_used_at", "organization_id", "user_id")
_USER_FIELDS = ("id", "email", "name", "is_active", "is_staff", "is_superuser")


class ApiKeyAuthentication(TokenAuthentication):  # type: ignore[misc]  # knox has no types
    """Knox's authentication, except that an expired key is kept, so that its owner can see why it fails.

    One statement finds the key, its user and what they may do. Use renews no key.
    """

    def authenticate_credentials(self, token: bytes) -> tuple[User, ApiKey]:
        if not token.isascii():
            raise AuthenticationFailed("This is not an API key of Netra; those start with ntr_.")
        text = token.decode("ascii")
        digest = hash_token(text)
        for row in fetch(_KEYS, {"beginning": text[: CONSTANTS.TOKEN_KEY_LENGTH]}):
            if compare_digest(digest, row[0]):
                return _usable(_key_of(row))
        raise AuthenticationFailed("Invalid token.")


def _key_of(row: Row) -> ApiKey:
    """The key in a row of `_KEYS`, with its user and, where they still have a place, its principal."""
    *values, role, plan = row
    key: ApiKey = loaded(ApiKey, dict(zip(_KEY_FIELDS, values, strict=False)))
    key.user = loaded(User, dict(zip(_USER_FIELDS, values[len(_KEY_FIELDS) :], strict=True)))
    if role is not None:
        key.principal = principal_by_key(key, role=role, plan=plan)
    return key


def _usable(key: ApiKey) -> tuple[User, ApiKey]:
    """The key and its user; its use is noted now and then.

    Raises:
        AuthenticationFailed: the key has expired, or its user is locked out.
    """
    # Only here is the whole key known to be right: a guessed beginning learns nothing.
    if key.is_expired:
        raise AuthenticationFailed("This API key has expired; create a new one.", code="key_expired")
    now, used = timezone.now(), key.last_used_at
    if used is None or (now - used).total_seconds() > LAST_USED_EVERY:
        ApiKey.objects.filter(pk=key.pk).update(last_used_at=now)
    if not key.user.is_active:
        raise AuthenticationFailed("User inactive or deleted.")
    return key.user, key


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "apps.accounts.authentication.ApiKeyAuthentication"
    name = "ApiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "bearerFormat": "ntr_..."}
