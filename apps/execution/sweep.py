"""Whatever PostgreSQL says is waiting gets its ring again."""

from collections.abc import Iterable
from uuid import UUID

from django.db import connection, transaction

from apps.execution import doorbell

PATIENCE = "3 seconds"  # how long a ring may take before it counts as lost
GRACE = "10 seconds"  # for a step past its deadline to be settled by its own worker

_QUEUED = f"""
update conversations_run set rung_at = clock_timestamp() where id in (
    select run.id from conversations_run run join conversations_thread thread on thread.id = run.thread_id
    where run.state = 'queued' and run.rung_at < clock_timestamp() - interval '{PATIENCE}'
      and (run.not_before is null or run.not_before <= clock_timestamp()) and thread.live_run is null
    order by run.rung_at limit 200 for no key update of run skip locked
) returning id, user_id
"""  # noqa: S608
_READY = f"""
update conversations_step set rung_at = clock_timestamp() where id in (
    select step.id from conversations_step step join conversations_run run on run.id = step.run_id
    join conversations_thread thread on thread.live_run = run.id
    where step.state = 'ready' and step.rung_at < clock_timestamp() - interval '{PATIENCE}'
    order by step.rung_at limit 200 for no key update of step skip locked
) returning run_id
"""  # noqa: S608

# A living worker settles by the deadline itself; past it, nobody holds the step any more.
_OVERDUE = f"""
update conversations_step set state = 'ready', worker = null, rung_at = clock_timestamp() where id in (
    select step.id from conversations_step step
    join conversations_thread thread on thread.live_run = step.run_id
    where step.state = 'running' and step.deadline_at < clock_timestamp() - interval '{GRACE}'
    limit 200 for no key update of step skip locked
) returning run_id
"""  # noqa: S608


def sweep() -> int:
    """Ring for queued runs and ready steps whose ring was lost, and steps whose worker was; answers how many runs."""
    with transaction.atomic(), connection.cursor() as cursor:
        waiting = set()
        for statement in (_OVERDUE, _READY):
            cursor.execute(statement)
            waiting |= {row[0] for row in cursor.fetchall()}
        cursor.execute(_QUEUED)
        queued = cursor.fetchall()
        cursor.execute("update accounts_user set runnable = true where id = any(%s)", [[row[1] for row in queued]])
    return _ring_all(waiting | {row[0] for row in queued})


def _ring_all(runs: Iterable[UUID]) -> int:
    count = 0
    for run_id in runs:
        doorbell.ring(run_id)
        count += 1
    return count
