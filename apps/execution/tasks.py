"""Celery's door: a run id comes in, and whoever opens looks at PostgreSQL for what to do."""

from typing import Any
from uuid import UUID

from celery import shared_task
from celery.signals import worker_shutting_down

from apps.execution.doorbell import WAKE
from apps.execution.worker import stop_worker_loop, worker_loop


@shared_task(name=WAKE)
def wake(run_id: str) -> None:
    """Look after a run; harmless when it is done, running elsewhere or unknown."""
    worker_loop().wake(UUID(run_id))


@worker_shutting_down.connect
def hand_over(**_: Any) -> None:
    """Give steps back before Celery stops."""
    stop_worker_loop()
