"""Periodic work: apps register duties, the scheduler does them, one process at a time each."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from django.db import connection

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Duty:
    """Something to do every `every` seconds; `work` must be harmless when there is nothing to do."""

    name: str
    every: float  # seconds
    work: Callable[[], object]


duties: list[Duty] = []


def register(name: str, *, every: float, work: Callable[[], object]) -> None:
    """Have `work` done from now on; called by apps when they are ready."""
    duties.append(Duty(name=name, every=every, work=work))


def do_now(duty: Duty) -> bool:
    """Do a duty unless another process is at it; answers whether it was done."""
    with connection.cursor() as cursor:
        cursor.execute("select pg_try_advisory_lock(%s)", [_lock(duty)])
        if not cursor.fetchone()[0]:
            return False
        try:
            duty.work()
        finally:
            cursor.execute("select pg_advisory_unlock(%s)", [_lock(duty)])
    return True


def _lock(duty: Duty) -> int:
    return zlib.crc32(f"netra duty {duty.name}".encode())
