"""Taking a ready step, and giving it back."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone

from apps.accounts.models import Membership
from apps.accounts.tenancy import Principal
from apps.conversations import journal, lifecycle
from apps.conversations.journal import Fact
from apps.conversations.models import Run, Step
from apps.execution.context import UserExecutionContext
from apps.execution.registry import STEP_DEADLINE, agents

_CLAIM = """
update conversations_step set state = 'running', attempt = attempt + 1, worker = %(worker)s,
    started_at = coalesce(started_at, clock_timestamp())
where id = (select id from conversations_step where run_id = %(run)s and state = 'ready'
            order by position limit 1 for no key update skip locked)
  and state = 'ready'
returning id, name, agent, attempt
"""

_ENDED = "not exists (select from conversations_thread thread where thread.live_run = %(run)s)"
_BURY = f"""
update conversations_step set state = 'skipped' where id in (
    select id from conversations_step where run_id = %(run)s and state in ('blocked', 'ready', 'waiting')
    for no key update skip locked
) and {_ENDED}
"""  # noqa: S608  # fixed parts only
_ABANDON = f"""
update conversations_step set state = 'skipped', finished_at = clock_timestamp()
where id = %(step)s and attempt = %(attempt)s and state = 'running' and {_ENDED}
"""  # noqa: S608  # fixed parts only


def claim_step(run_id: UUID, *, worker: UUID) -> UserExecutionContext | None:
    """Take one ready step of a run for `worker`; None when there is none or the run has ended.

    The attempt that the claim raises is the fence of every later write.
    """
    try:
        with transaction.atomic():
            return _claim(run_id, worker)
    except journal.Fenced:
        bury(run_id)
        return None


def _claim(run_id: UUID, worker: UUID) -> UserExecutionContext | None:
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, {"run": run_id, "worker": worker})
        claimed = cursor.fetchone()
    if claimed is None:
        return None
    step_id, step, agent, attempt = claimed
    run = Run.objects.select_related("organization").get(pk=run_id)
    # An agent that this release does not know is told by the engine, which can end the run.
    patience = agents.get(agent).deadline if agent in agents else STEP_DEADLINE
    deadline_at = min(timezone.now() + timedelta(seconds=patience), run.deadline_at or datetime.max.replace(tzinfo=UTC))
    Step.objects.filter(pk=step_id).update(deadline_at=deadline_at)
    context = UserExecutionContext(
        principal=_principal(run),
        thread_id=run.thread_id,
        run_id=run.pk,
        step_id=step_id,
        step=step,
        attempt=attempt,
        worker=worker,
        agent=agent,
        goal=run.goal,
        dataset_id=run.dataset,
        deadline_at=deadline_at,
    )
    journal.append(context.fence, _opening(context))
    return context


def _opening(context: UserExecutionContext) -> Fact:
    """A step is opened once; a later attempt says that it recovers, and closes what is open."""
    if context.attempt == 1:
        return Fact("step_started", {"agent": context.agent})
    return Fact("run_recovering", {"attempt": context.attempt, "reason": "the worker stopped; another took over"})


def _principal(run: Run) -> Principal:
    """The rights the run's owner has *now*: who was removed meanwhile acts as a viewer, who may do nothing."""
    role = (
        Membership.objects.filter(user_id=run.user_id, organization_id=run.organization_id)
        .values_list("role", flat=True)
        .first()
    )
    return Principal(
        user_id=run.user_id,
        organization_id=run.organization_id,
        role=role or Membership.Role.VIEWER,
        plan=str(run.organization.plan_id),
    )


def release(context: UserExecutionContext) -> bool:
    """Give a step back, so that any worker may take it; False when it was no longer ours."""
    return lifecycle.move_step(
        context.step_id, attempt=context.attempt, source=Step.State.RUNNING, to=Step.State.READY, worker=None
    )


def bury(run_id: UUID) -> None:
    """Mark the steps of an ended run that nobody holds as skipped; does nothing while the run is live."""
    with connection.cursor() as cursor:
        cursor.execute(_BURY, {"run": run_id})


def abandon(context: UserExecutionContext) -> None:
    """After being fenced off: if that is because the run has ended, the step is over too."""
    with connection.cursor() as cursor:
        cursor.execute(_ABANDON, {"run": context.run_id, "step": context.step_id, "attempt": context.attempt})
