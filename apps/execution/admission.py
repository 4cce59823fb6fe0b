"""Which queued run starts next: the least recently served user first, in order within a thread, at most so many each.

Two or three statements in a short transaction (tried under 40 claimers; SKIP LOCKED lets them pass each other). There
is no counter that could leak: the running runs of a user are counted from the rows.
"""

from datetime import timedelta
from uuid import UUID

from django.db import connection, transaction
from django.db.models.functions import Now
from django.utils import timezone

from apps.accounts.models import User
from apps.conversations import journal, lifecycle
from apps.conversations.journal import Fact
from apps.conversations.models import Run, Step, Thread
from apps.execution.registry import RUN_DEADLINE, Workflow, workflows
from apps.operations.problems import new_support_id

_NEXT_USER = """
select id from accounts_user where runnable order by served_at limit 1 for no key update skip locked
"""
_NEXT_RUN = """
select run.id, run.thread_id, run.workflow, run.goal
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


def admit_one() -> UUID | None:
    """Start the next admissible run and answer its id; None when no user has one."""
    while True:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_NEXT_USER)
            user = cursor.fetchone()
            if user is None:
                return None
            cursor.execute(_NEXT_RUN, {"user": user[0]})
            found = cursor.fetchone()
            if found is None:
                User.objects.filter(pk=user[0]).update(runnable=False)
                continue
            run_id, thread_id, workflow, goal = found
            if workflow in workflows:
                _start(run_id, thread_id, workflows.get(workflow), goal)
            else:
                _refuse(run_id, thread_id, workflow, goal)
            User.objects.filter(pk=user[0]).update(served_at=Now())
            return UUID(str(run_id))


def _start(run_id: UUID, thread_id: UUID, workflow: Workflow, goal: str) -> None:
    _begin(run_id, thread_id, Fact("agent_started", {"agent": workflow.lead, "workflow": workflow.name, "goal": goal}))
    Step.objects.bulk_create(_steps(run_id, workflow))


def _begin(run_id: UUID, thread_id: UUID, started: Fact) -> None:
    now = timezone.now()
    Thread.objects.filter(pk=thread_id).update(live_run=run_id)
    journal.append_to_run(thread=thread_id, run=run_id, facts=[started])
    lifecycle.move_run(
        run_id,
        source=Run.State.QUEUED,
        to=Run.State.RUNNING,
        started_at=now,
        deadline_at=now + timedelta(seconds=RUN_DEADLINE),
    )


def _refuse(run_id: UUID, thread_id: UUID, workflow: str, goal: str) -> None:
    """End a run whose workflow this release does not have; it would stand in everybody's way otherwise."""
    _begin(run_id, thread_id, Fact("agent_started", {"agent": workflow, "workflow": workflow, "goal": goal}))
    error = {"code": "workflow.unknown", "detail": f"This release has no workflow {workflow!r}.", "retryable": True}
    ending = Fact("agent_error", error | {"suggestions": ["Ask again."], "support_id": new_support_id()})
    journal.append_to_run(thread=thread_id, run=run_id, facts=[ending])
    lifecycle.move_run(
        run_id,
        source=Run.State.RUNNING,
        to=Run.State.FAILED,
        finished_at=timezone.now(),
        error_code=str(error["code"]),
        error_detail=str(error["detail"]),
    )


def _steps(run_id: UUID, workflow: Workflow) -> list[Step]:
    return [
        Step(
            run_id=run_id,
            name=spec.name,
            agent=spec.agent,
            position=position,
            depends_on=list(spec.depends_on),
            state=Step.State.BLOCKED if spec.depends_on else Step.State.READY,
        )
        for position, spec in enumerate(workflow.steps)
    ]
