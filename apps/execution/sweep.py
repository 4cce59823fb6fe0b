"""Whatever PostgreSQL says is waiting gets its ring again, and what a silent process held gets another one.

Every agent worker does this, one at a time, under an advisory lock; it takes up what it finds by itself as far as it
has room, so that work goes on while Redis cannot carry a ring.
"""

from collections.abc import Callable
from functools import partial
from uuid import UUID

import structlog
from django.db import OperationalError, connection, transaction
from psycopg.errors import LockNotAvailable

from apps.conversations.journal import Fenced, lock_thread
from apps.conversations.models import Run
from apps.execution import calls, doorbell
from apps.execution.calls import GRACE
from apps.execution.endings import fail_run
from apps.execution.registry import TOOL_DEADLINE, Failed, tools
from apps.operations.problems import new_support_id
from apps.statements import fetch

log = structlog.get_logger(__name__)

PATIENCE = "3 seconds"  # how long a ring may take before it counts as lost
SILENCE = "5 seconds"  # without a beat, after which a process has lost what it held
OVERDUE = "5 seconds"  # past its deadline, for a step to be settled by its own worker

# A database that has just come back has heard nobody for a while; that is nobody's silence.
_SILENT = f"""(
    worker is null or not exists (
        select from execution_workerprocess process
        where process.id = worker and process.beat_at > clock_timestamp() - interval '{SILENCE}')
) and pg_postmaster_start_time() < clock_timestamp() - interval '{SILENCE}'"""  # fixed parts only
_JOURNALED = """(
    (select count(*) from conversations_toolcall call
     where call.run_id = step.run_id and call.step = step.name and call.finished_at is not null)
    + (select count(*) from llm_modelcall model
       where model.run = step.run_id and model.step = step.name and model.state = 'answered')
)"""

# Silent, or past the deadline by which a living worker settles itself: nobody holds these steps any more.
_RESCUE = f"""
update conversations_step step set state = 'ready', worker = null, rung_at = clock_timestamp(), losses = losses + 1,
    barren_losses = case when {_JOURNALED} > journaled then 1 else barren_losses + 1 end, journaled = {_JOURNALED},
    reason = case when deadline_at < clock_timestamp() - interval '{OVERDUE}'
        then 'it did not come to an end in time' else 'the worker stopped; another took over' end
where id in (
    select held.id from conversations_step held
    join conversations_thread thread on thread.live_run = held.run_id
    where held.state = 'running'
      and (held.deadline_at < clock_timestamp() - interval '{OVERDUE}' or {_SILENT})
    limit 200 for no key update of held skip locked
) returning run_id
"""  # noqa: S608
# A step that is given back in the moment in which its run ends is ready for nobody.
_BURY = f"""
update conversations_step set state = 'skipped', finished_at = clock_timestamp() where id in (
    select held.id from conversations_step held
    where (held.state = 'ready' or held.state = 'running' and {_SILENT})
      and not exists (select from conversations_thread thread where thread.live_run = held.run_id)
    limit 200 for no key update of held skip locked
) returning run_id
"""  # noqa: S608
_READY = f"""
update conversations_step set rung_at = clock_timestamp() where id in (
    select step.id from conversations_step step join conversations_run run on run.id = step.run_id
    join conversations_thread thread on thread.live_run = run.id
    where step.state = 'ready' and run.state = 'running' and step.rung_at < clock_timestamp() - interval '{PATIENCE}'
      and (step.not_before is null or step.not_before <= clock_timestamp())
    order by step.rung_at limit 200 for no key update of step skip locked
) returning run_id
"""  # noqa: S608
_QUEUED = f"""
update conversations_run set rung_at = clock_timestamp() where id in (
    select run.id from conversations_run run join conversations_thread thread on thread.id = run.thread_id
    where run.state = 'queued' and run.rung_at < clock_timestamp() - interval '{PATIENCE}'
      and (run.not_before is null or run.not_before <= clock_timestamp())
      and (thread.live_run is null or thread.live_run = run.id)
    order by run.rung_at limit 200 for no key update of run skip locked
) returning id, user_id
"""  # noqa: S608
_CALLS = f"""
update conversations_toolcall set rung_at = clock_timestamp() where id in (
    select call.id from conversations_toolcall call join conversations_run run on run.id = call.run_id
    where call.place = 'worker' and call.state = 'intended' and run.state = 'running'
      and call.rung_at < clock_timestamp() - interval '{PATIENCE}'
    order by call.rung_at limit 200 for no key update of call skip locked
) returning id, tool
"""  # noqa: S608
_LOST_CALLS = f"""
select id, attempt from conversations_toolcall
where place = 'worker' and state = 'started' and finished_at is null
  and ({_SILENT} or deadline_at < clock_timestamp() - interval '{GRACE + 5} seconds')
limit 200
"""  # noqa: S608
_EXPIRED = """
select distinct run.id, run.thread_id, run.user_id
from conversations_run run join conversations_question question on question.run_id = run.id
where run.state = 'waiting' and question.answered_at is null and question.expires_at < clock_timestamp() limit 200
"""
_IS_EXPIRED = """
select 1 from conversations_question
where run_id = %(run)s and answered_at is null and expires_at < clock_timestamp() limit 1
"""
# Whoever holds a user's row looks for a run of theirs, or sets this; and what stands still holds up no rescue.
_RUNNABLE = """
update accounts_user set runnable = true where id in (
    select id from accounts_user where id = any(%s) for no key update skip locked)
"""
_FORGET = "delete from execution_workerprocess where beat_at < clock_timestamp() - interval '1 day'"


def sweep(*, ring: Callable[[UUID], None] = doorbell.ring) -> int:
    """Take back what silent processes hold, ring for what was not heard, end what expired; answers how many rings."""
    waiting = _collect()
    for run_id in waiting:
        ring(run_id)
    # These wait for a thread's lock, and whoever holds it may stand still: that holds up neither the rescue nor others.
    for call_id, attempt in fetch(_LOST_CALLS, {}):
        _unless_locked(partial(calls.take_back, call_id, attempt=attempt))
    for run, thread, user in fetch(_EXPIRED, {}):
        _unless_locked(partial(_expire, run, thread, user))
    return len(waiting)


def _unless_locked(work: Callable[[], None]) -> None:
    try:
        work()
    except OperationalError as error:
        if not isinstance(error.__cause__, LockNotAvailable):
            raise
        log.warning("A lock is held for long; the next look tries again", reason=str(error))


def _collect() -> list[UUID]:
    """The runs for which somebody has to be rung, once for each step; tool workers are rung at once."""
    with transaction.atomic(), connection.cursor() as cursor:
        waiting: list[UUID] = []
        for statement in (_RESCUE, _READY):
            cursor.execute(statement)
            waiting += [row[0] for row in cursor.fetchall()]
        cursor.execute(_BURY)
        cursor.execute(_QUEUED)
        queued = cursor.fetchall()
        cursor.execute(_RUNNABLE, [[row[1] for row in queued]])
        cursor.execute(_CALLS)
        for call_id, tool in cursor.fetchall():
            doorbell.ring_for_tool(call_id, seconds=_seconds_of(tool))
        cursor.execute(_FORGET)
    return waiting + [row[0] for row in queued]


def _seconds_of(tool: str) -> float:
    return (tools.get(tool).deadline if tool in tools else TOOL_DEADLINE) + GRACE


def _expire(run: UUID, thread: UUID, user: UUID) -> None:
    """End a run that waited too long for a person; does nothing where it goes on, or is gone with its thread."""
    expired = Failed(
        code="run.expired",
        detail="The run waited for an answer that did not come in time.",
        retryable=True,
        suggestions=("Ask again.",),
        support_id=new_support_id(),
    )
    try:
        with transaction.atomic():
            lock_thread(thread)
            if not fetch(_IS_EXPIRED, {"run": run}):
                return  # it was answered just in time, and asks something else by now
            fail_run(run=run, thread=thread, user=user, failure=expired, source=Run.State.WAITING)
    except Fenced as error:
        log.info("A run went on just before it expired", run=str(run), reason=error.detail)
