"""Waking a worker. A lost ring costs seconds: the sweep rings again for whatever is still waiting."""

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


def ring(run_id: UUID) -> None:
    """Wake a worker for a run once the current transaction has committed; at once where there is none."""
    transaction.on_commit(lambda: _ring(run_id), robust=True)


def ring_for_tool(call_id: int, *, seconds: float) -> None:
    """Wake a tool worker for a call, which is killed after `seconds`; as `ring`."""
    transaction.on_commit(lambda: _send(RUN_TOOL, call_id, time_limit=seconds), robust=True)


def _ring(run_id: UUID) -> None:
    point("run.committed")
    _send(WAKE, str(run_id))


def _send(task: str, argument: str | int, **options: Any) -> None:
    try:
        current_app.send_task(task, args=[argument], retry=False, **options)
    except OperationalError as error:
        log.warning("Doorbell not heard; the sweep will ring again", task=task, id=argument, reason=str(error))
