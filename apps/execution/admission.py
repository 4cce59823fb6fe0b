"""Which queued run starts next: the least recently served user first, in order within a thread, at most so many each.

Two or three statements in a short transaction (tried under 40 claimers; SKIP LOCKED lets them pass each other). There
is no counter that could leak: the running runs of a user are counted from the rows.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone

from apps.conversations import journal, lifecycle
from apps.conversations.journal import Fact
from apps.conversations.models import Run, Step
from apps.execution import doorbell
from apps.execution.registry import STEP_DEADLINE, StepSpec, agents, workflows
from apps.operations.problems import new_support_id

_NEXT_USER = """
select id from accounts_user where runnable order by served_at limit 1 for no key update skip locked
"""
_NEXT_RUN = """
select run.id, run.thread_id, run.workflow, run.goal, run.started_at, plan.max_run_seconds
from conversations_run run
join conversations_thread thread on thread.id = run.thread_id
join accounts_organization organization on organization.id = run.organization_id
join accounts_plan plan on plan.code = organization.plan_id
where run.user_id = %(user)s and run.state = 'queued'
  and (run.not_before is null or run.not_before <= clock_timestamp())
  and (thread.live_run is null or thread.live_run = run.id)
  and (select count(*) from conversations_run other
       where other.user_id = %(user)s and other.state = 'running') < plan.max_running_runs
  and not exists (select from conversations_run earlier
                  where earlier.thread_id = run.thread_id and earlier.state = 'queued'
                    and earlier.queued_seq < run.queued_seq)
order by run.id limit 1
for no key update of run, thread skip locked
"""
_REST = "update accounts_user set runnable = false where id = %(user)s"
_SERVED = "update accounts_user set served_at = clock_timestamp() where id = %(user)s"
_STARTED = """
update conversations_run set state = 'running', not_before = null, started_at = coalesce(started_at, clock_timestamp()),
    deadline_at = clock_timestamp() + %(seconds)s * interval '1 second'
where id = %(run)s and state = 'queued'
"""


@dataclass(frozen=True)
class _Queued:
    """A row of `_NEXT_RUN`, in its order."""

    run: UUID
    thread: UUID
    workflow: str
    goal: str
    started_at: datetime | None
    most_seconds: int


def admit_one() -> UUID | None:
    """Start the next admissible run, or let it go on if it had to wait, and answer its id; None when nobody has one."""
    while True:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_NEXT_USER)
            user = cursor.fetchone()
            if user is None:
                return None
            cursor.execute(_NEXT_RUN, {"user": user[0]})
            found = cursor.fetchone()
            if found is None:
                cursor.execute(_REST, {"user": user[0]})
                continue
            queued = _Queued(*found)
            _admit(queued)
            cursor.execute(_SERVED, {"user": user[0]})
            return queued.run


def _admit(queued: _Queued) -> None:
    if queued.workflow not in workflows:
        _refuse(queued)
        return
    workflow = workflows.get(queued.workflow)
    if queued.started_at is None:
        lead = {"agent": workflow.lead, "workflow": workflow.name, "goal": queued.goal}
        journal.begin_run(thread=queued.thread, run=queued.run, started=Fact("agent_started", lead))
        steps = [_step(queued.run, place, spec) for place, spec in enumerate(workflow.steps)]
        Step.objects.bulk_create(steps)
        # Whoever admits takes one of them itself.
        for _ in [step for step in steps if step.state == Step.State.READY][1:]:
            doorbell.ring(queued.run)
    _set_running(queued, min(workflow.deadline, queued.most_seconds))


def _set_running(queued: _Queued, seconds: float) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_STARTED, {"run": queued.run, "seconds": seconds})


def _step(run: UUID, position: int, spec: StepSpec) -> Step:
    # An agent that this release does not know is told by the engine, which can end the run.
    usual = agents.get(spec.agent).deadline if spec.agent in agents else STEP_DEADLINE
    return Step(
        run_id=run,
        name=spec.name,
        agent=spec.agent,
        position=position,
        depends_on=list(spec.depends_on),
        patience=spec.deadline or usual,
        state=Step.State.BLOCKED if spec.depends_on else Step.State.READY,
    )


def _refuse(queued: _Queued) -> None:
    """End a run whose workflow this release does not have; it would stand in everybody's way otherwise."""
    name = queued.workflow
    if queued.started_at is None:
        lead = {"agent": name, "workflow": name, "goal": queued.goal}
        journal.begin_run(thread=queued.thread, run=queued.run, started=Fact("agent_started", lead))
    _set_running(queued, 0.0)
    detail = f"This release has no workflow {name!r}."
    error = {"code": "workflow.unknown", "detail": detail, "retryable": True, "support_id": new_support_id()}
    ending = Fact("agent_error", error | {"suggestions": ["Ask again."]})
    journal.append_to_run(thread=queued.thread, run=queued.run, facts=[ending])
    lifecycle.move_run(
        queued.run,
        source=Run.State.RUNNING,
        to=Run.State.FAILED,
        finished_at=timezone.now(),
        error_code="workflow.unknown",
        error_detail=detail,
    )
