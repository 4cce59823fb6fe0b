"""Which state may follow which, and the compare-and-set that makes it so. The tables are those of the design."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from psycopg.types.json import Json

from apps.conversations.models import Run, Step
from apps.operations.database import storable
from apps.statements import change

RUN_ARROWS: Mapping[str, frozenset[str]] = {
    Run.State.QUEUED: frozenset({Run.State.RUNNING, Run.State.CANCELLED}),
    Run.State.RUNNING: frozenset(
        {Run.State.QUEUED, Run.State.WAITING, Run.State.COMPLETED, Run.State.FAILED, Run.State.CANCELLED}
    ),
    Run.State.WAITING: frozenset({Run.State.QUEUED, Run.State.CANCELLED, Run.State.FAILED}),
    Run.State.COMPLETED: frozenset(),
    Run.State.FAILED: frozenset(),
    Run.State.CANCELLED: frozenset(),
}
STEP_ARROWS: Mapping[str, frozenset[str]] = {
    Step.State.BLOCKED: frozenset({Step.State.READY, Step.State.SKIPPED}),
    # Back to blocked: a release failed, and the former version sees what the step still waits for.
    Step.State.READY: frozenset({Step.State.RUNNING, Step.State.BLOCKED, Step.State.SKIPPED}),
    Step.State.RUNNING: frozenset(set(Step.State) - {Step.State.RUNNING}),
    Step.State.WAITING: frozenset({Step.State.READY, Step.State.SKIPPED}),
    Step.State.COMPLETED: frozenset(),
    Step.State.FAILED: frozenset(),
    Step.State.SKIPPED: frozenset(),
}
UNFINISHED = frozenset({Run.State.QUEUED, Run.State.RUNNING, Run.State.WAITING})


class IllegalTransition(ValueError):
    """Code of ours asked for an arrow that the table does not have."""


def move_run(run_id: UUID, *, source: str, to: str, **fields: Any) -> bool:
    """Move a run in one UPDATE, so that two processes cannot both win; False when it was not in `source`.

    Raises:
        IllegalTransition: there is no such arrow.
    """
    if to not in RUN_ARROWS[source]:
        raise IllegalTransition(f"A run does not go from {source} to {to}.")
    return _move("conversations_run", {"id": run_id, "state": source}, {"state": to, **fields})


def move_step(step_id: int, *, attempt: int, source: str, to: str, **fields: Any) -> bool:
    """Move a step, for the holder of `attempt` only; False when the attempt is stale or the state another.

    Raises:
        IllegalTransition: there is no such arrow.
    """
    if to not in STEP_ARROWS[source]:
        raise IllegalTransition(f"A step does not go from {source} to {to}.")
    held = {"id": step_id, "attempt": attempt, "state": source}
    return _move("conversations_step", held, {"state": to, **fields})


def _move(table: str, held: Mapping[str, Any], changes: Mapping[str, Any]) -> bool:
    """Columns are named by code of ours only; a dictionary becomes JSON."""
    given = ((name, storable(value)) for name, value in changes.items())
    values = {f"new_{name}": Json(value) if isinstance(value, dict) else value for name, value in given}
    assignments = ", ".join(f"{name} = %(new_{name})s" for name in changes)
    conditions = " and ".join(f"{name} = %({name})s" for name in held)
    statement = f"update {table} set {assignments} where {conditions}"  # noqa: S608
    return change(statement, {**held, **values}) == 1
