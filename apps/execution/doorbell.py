"""Waking a worker. A lost ring costs seconds: the sweep rings again for whatever is still waiting.

Rings go out from a thread of their own, so that nobody who has committed waits for a Redis that stands still.
"""

import os
import threading
from dataclasses import dataclass, field
from queue import Full, Queue
from typing import Any
from uuid import UUID

import structlog
from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError

from apps.operations.debug_points import point

log = structlog.get_logger(__name__)

# By name, so that orchestrator and dispatcher need no import of the tasks that call them.
WAKE = "execution.wake"
RUN_TOOL = "execution.run_tool"
UNHEARD = 1000  # rings that may wait while Redis stands still; beyond, the sweep has to do


def ring(run_id: UUID) -> None:
    """Wake a worker for a run once the current transaction has committed; at once where there is none."""
    transaction.on_commit(lambda: _ring(run_id), robust=True)


def ring_for_tool(call_id: int, *, seconds: float) -> None:
    """Wake a tool worker for a call, which is killed after `seconds`; as `ring`."""
    transaction.on_commit(lambda: _send(RUN_TOOL, call_id, time_limit=seconds), robust=True)


def _ring(run_id: UUID) -> None:
    point("run.committed")
    _send(WAKE, str(run_id))


@dataclass(frozen=True)
class _Ring:
    task: str
    argument: str | int
    options: dict[str, Any] = field(default_factory=dict)


class _Ringer:
    """The thread that rings, and what it has still to ring for; started at first use, and again after a fork."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._waiting: Queue[_Ring] = Queue(UNHEARD)
        threading.Thread(target=self._ring_forever, name="doorbell", daemon=True).start()

    def take(self, ring: _Ring) -> None:
        try:
            self._waiting.put_nowait(ring)
        except Full:
            log.warning("Redis stands still; the sweep will ring again", task=ring.task, id=ring.argument)

    def _ring_forever(self) -> None:
        while True:
            ring = self._waiting.get()
            try:
                current_app.send_task(ring.task, args=[ring.argument], retry=False, **ring.options)
            except OperationalError as error:
                log.warning("Doorbell not heard; the sweep will ring again", id=ring.argument, reason=str(error))
            except Exception as error:
                log.error("Doorbell broken; the sweep will ring again", id=ring.argument, exc_info=error)


_starting = threading.Lock()
_ringer: _Ringer | None = None


def _send(task: str, argument: str | int, **options: Any) -> None:
    global _ringer
    with _starting:
        if _ringer is None or _ringer.process != os.getpid():
            _ringer = _Ringer()
    _ringer.take(_Ring(task, argument, options))
