"""What Django's checks cannot know: whether the configuration fits the way this house is reached.

All are deployment checks: `manage.py check_config` and `manage.py check --deploy` run them, development does not.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from apps.operations.configuration import is_set

LOOPBACK = {"localhost", "127.0.0.1", "[::1]", "::1", ".localhost"}


def _is_public() -> bool:
    return not set(settings.ALLOWED_HOSTS) <= LOOPBACK


@register(Tags.security, deploy=True)
def check_secret_key(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    kept = (Path(settings.NETRA_HOME) / "secret-key").exists()
    if not is_set("DATABASE_URL") or is_set("NETRA_SECRET_KEY") or kept:
        return []
    return [
        Error(
            "Each process signs sessions with a key of its own.",
            hint="Set NETRA_SECRET_KEY to the same 50 random characters for all processes: "
            'python -c "import secrets; print(secrets.token_urlsafe(48))"',
            id="netra.E001",
        )
    ]


@register(Tags.security, deploy=True)
def check_debug(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    if not (settings.DEBUG and _is_public()):
        return []
    hint = "Unset NETRA_DEBUG, or NETRA_ALLOWED_HOSTS."
    return [Error("Debug pages show settings and data to whoever reaches the site.", hint=hint, id="netra.E002")]


@register(Tags.security, deploy=True)
def check_any_host(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    if "*" not in settings.ALLOWED_HOSTS:
        return []
    hint = "List the names of the site in NETRA_ALLOWED_HOSTS, comma-separated."
    return [Error("The site answers to any host name, so links in it can be forged.", hint=hint, id="netra.E003")]


@register(Tags.security, deploy=True)
def check_https(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    if settings.SESSION_COOKIE_SECURE or settings.DEBUG or not _is_public():
        return []
    hint = "Put a proxy with TLS in front of it and set NETRA_HTTPS=true."
    return [Warning("Passwords and sessions cross the network in clear text.", hint=hint, id="netra.W001")]


@register(Tags.security, deploy=True)
def check_model_endpoint(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    target = urlsplit(settings.LLM_BASE_URL or "")
    if target.scheme != "http" or target.hostname in LOOPBACK or not settings.LLM_API_KEY:
        return []
    hint = "Use https in NETRA_LLM_BASE_URL."
    return [Warning("The key of the model endpoint crosses the network in clear text.", hint=hint, id="netra.W002")]
