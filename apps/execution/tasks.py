"""Celery's door: an id comes in, and whoever opens looks at PostgreSQL for what to do."""

from typing import Any
from uuid import UUID

from celery import shared_task
from celery.signals import worker_process_init, worker_process_shutdown, worker_ready, worker_shutting_down
from uuid6 import uuid7

from apps.execution import tool_worker
from apps.execution.context import scopes
from apps.execution.doorbell import RUN_TOOL, WAKE
from apps.execution.heartbeat import Heartbeat
from apps.execution.models import WorkerProcess
from apps.execution.worker import stop_worker_loop, worker_loop
from apps.operations.breakers import breakers
from apps.operations.memory import keep_what_is_loaded


@shared_task(name=WAKE)
def wake(run_id: str) -> None:
    """Look after a run; harmless when it is done, running elsewhere or unknown."""
    worker_loop().wake(UUID(run_id))


@shared_task(name=RUN_TOOL)
def run_tool(call_id: int) -> None:
    """Run a tool call; harmless when it is done, running elsewhere or unknown."""
    tool_worker.run_call(call_id, worker=_process_id)


# --- The agent worker: one event loop --------------------------------------------------------------------------------


@worker_ready.connect
def look_after_runs(sender: Any, **_: Any) -> None:
    """Start the loop at once: it rescues runs even before it is rung for one."""
    if any(queue.name == "agents" for queue in sender.task_consumer.queues):
        keep_what_is_loaded()
        worker_loop()


@worker_shutting_down.connect
def hand_over(**_: Any) -> None:
    """Give steps back before Celery stops."""
    stop_worker_loop()


# --- The tool worker: a process per call -----------------------------------------------------------------------------

_process_id = uuid7()
_heartbeat: Heartbeat | None = None


@worker_process_init.connect
def begin_to_beat(**_: Any) -> None:
    """A process of the pool is an identity of its own, with hard limits."""
    global _process_id, _heartbeat
    tool_worker.limit_memory()
    _process_id = uuid7()
    _heartbeat = Heartbeat(_process_id, kind=WorkerProcess.Kind.TOOLS, status=lambda: {"scopes": scopes.as_json()})
    _heartbeat.start()


@worker_process_shutdown.connect
def stop_beating(**_: Any) -> None:
    if _heartbeat is not None:
        _heartbeat.stop()
        breakers().close()
