"""Waking a worker. A lost ring costs seconds: the sweep rings again for whatever is still waiting."""

from uuid import UUID

import structlog
from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError

log = structlog.get_logger(__name__)

# By name, so that orchestrator and dispatcher need no import of the tasks that call them.
WAKE = "execution.wake"


def ring(run_id: UUID) -> None:
    """Wake a worker for a run once the current transaction has committed; at once where there is none."""
    transaction.on_commit(lambda: _ring(run_id), robust=True)


def _ring(run_id: UUID) -> None:
    try:
        current_app.send_task(WAKE, args=[str(run_id)], retry=False)
    except OperationalError as error:
        log.warning("Doorbell not heard; the sweep will ring again", run=str(run_id), reason=str(error))
