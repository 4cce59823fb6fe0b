"""The circuit breakers of this process, on the house's Redis."""

from functools import cache

from django.conf import settings

from apps.resilience.breakers import Breakers


@cache
def breakers() -> Breakers:
    """All breakers of this process, made at first use."""
    return Breakers(settings.REDIS_URL)
