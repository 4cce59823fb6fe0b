"""API keys in the `Authorization: Bearer` header."""

from typing import Any

from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from knox.auth import TokenAuthentication
from rest_framework.exceptions import AuthenticationFailed

from apps.accounts.models import ApiKey

LAST_USED_EVERY = 60.0  # seconds between two notes of a key's use


def name_to_lock(request: Any, credentials: dict[str, Any] | None = None) -> str:
    """The name that failed sign-ins are counted under: however it is spelled, it is one account."""
    given = (credentials or {}).get("username") or (request.POST.get("username", "") if request is not None else "")
    return str(given).replace("\x00", "").strip().lower()[:254]


class ApiKeyAuthentication(TokenAuthentication):  # type: ignore[misc]  # knox has no types
    """Knox's authentication, except that an expired key is kept, so that its owner can see why it fails."""

    def authenticate_credentials(self, token: bytes) -> Any:
        if not token.isascii():
            raise AuthenticationFailed("This is not an API key of Netra; those start with ntr_.")
        return super().authenticate_credentials(token)

    def _cleanup_token(self, auth_token: ApiKey) -> bool:
        return False

    def validate_user(self, auth_token: ApiKey) -> Any:
        now = timezone.now()
        # Only here is the whole key known to be right: a guessed beginning learns nothing.
        if auth_token.is_expired:
            raise AuthenticationFailed("This API key has expired; create a new one.", code="key_expired")
        used = auth_token.last_used_at
        if used is None or (now - used).total_seconds() > LAST_USED_EVERY:
            ApiKey.objects.filter(pk=auth_token.pk).update(last_used_at=now)
        return super().validate_user(auth_token)


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "apps.accounts.authentication.ApiKeyAuthentication"
    name = "ApiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "bearerFormat": "ntr_..."}
