"""Taking a ready step, and giving it back."""

from datetime import timedelta
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone

from apps.accounts.models import Membership
from apps.accounts.tenancy import Principal
from apps.conversations import journal, lifecycle
from apps.conversations.journal import Fact
from apps.conversations.models import Run, Step
from apps.execution.context import UserExecutionContext
from apps.execution.registry import agents

_CLAIM = """
update conversations_step set state = 'running', attempt = attempt + 1, worker = %(worker)s,
    started_at = coalesce(started_at, clock_timestamp())
where id = (select id from conversations_step where run_id = %(run)s and state = 'ready'
            order by position limit 1 for no key update skip locked)
  and state = 'ready'
returning id, name, agent, attempt
"""


def claim_step(run_id: UUID, *, worker: UUID) -> UserExecutionContext | None:
    """Take one ready step of a run for `worker`; None when there is none or the run has ended.

    The attempt that the claim raises is the fence of every later write.
    """
    try:
        with transaction.atomic():
            return _claim(run_id, worker)
    except journal.Fenced:
        return None


def _claim(run_id: UUID, worker: UUID) -> UserExecutionContext | None:
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, {"run": run_id, "worker": worker})
        claimed = cursor.fetchone()
    if claimed is None:
        return None
    step_id, step, agent, attempt = claimed
    run = Run.objects.select_related("organization").get(pk=run_id)
    deadline_at = timezone.now() + timedelta(seconds=agents.get(agent).deadline)
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
