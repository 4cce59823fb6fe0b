"""Taking a ready step, and giving it back."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction

from apps.accounts.models import Membership
from apps.accounts.tenancy import Principal
from apps.conversations import journal
from apps.conversations.journal import Fact
from apps.execution import doorbell
from apps.execution.context import UserExecutionContext, context_for
from apps.statements import change, fetch

# A run that is queued again, after waiting, has ready steps: they are for whoever admits it, within its user's limit.
# The role is the one that the run's owner has *now*: who was removed or deactivated meanwhile acts as a viewer, who may
# do nothing.
_CLAIM = """
with claimed as (
    update conversations_step step set state = 'running', attempt = step.attempt + 1, worker = %(worker)s,
        not_before = null, started_at = coalesce(step.started_at, clock_timestamp()),
        deadline_at = least(clock_timestamp() + step.patience * interval '1 second', run.deadline_at)
    from conversations_run run
    where run.id = step.run_id and run.state = 'running' and step.state = 'ready' and step.id = (
        select id from conversations_step
        where run_id = %(run)s and state = 'ready' and (not_before is null or not_before <= clock_timestamp())
        order by position limit 1 for no key update skip locked)
    returning step.id, step.name, step.agent, step.attempt, step.reason, step.losses, step.barren_losses,
        step.deadline_at, step.depends_on, run.thread_id, run.user_id, run.organization_id, run.goal, run.dataset,
        run.workflow
)
select claimed.*, thread.user_id as thread_user, thread.organization_id as thread_organization,
    organization.plan_id as plan, membership.role, person.is_staff and person.is_active
from claimed
join conversations_thread thread on thread.id = claimed.thread_id
join accounts_organization organization on organization.id = claimed.organization_id
join accounts_user person on person.id = claimed.user_id
left join accounts_membership membership
    on membership.user_id = claimed.user_id and membership.organization_id = claimed.organization_id
        and person.is_active
"""
_ARTIFACTS = """
select name, agent, artifact from conversations_step
where run_id = %(run)s and state = 'completed' and artifact is not null
"""
_RELEASE = """
update conversations_step step set worker = null, rung_at = clock_timestamp(), reason = %(reason)s,
    losses = losses + %(losses)s,
    state = case when exists (select from conversations_thread thread where thread.live_run = step.run_id)
        then 'ready' else 'skipped' end
where id = %(step)s and attempt = %(attempt)s and state = 'running'
returning run_id
"""
_RUNS = "select 1 from conversations_run where id = %(run)s and state = 'running'"
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

HANDED_OVER = "the worker stopped; another took over"


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What a completed step handed over, as it is stored, and the agent that made it."""

    agent: str
    body: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A step that is ours: in whose name, how often it was lost before, and what earlier steps handed over."""

    context: UserExecutionContext
    workflow: str
    losses: int = 0
    barren_losses: int = 0  # since its journal last grew
    artifacts: Mapping[str, Artifact]
    others_wait: bool = False  # when its run was started, another one may have been startable


@dataclass(frozen=True)
class _Row:
    """A row of `_CLAIM`, in its order."""

    id: int
    name: str
    agent: str
    attempt: int
    reason: str
    losses: int
    barren_losses: int
    deadline_at: datetime
    depends_on: list[str]
    thread: UUID
    user: UUID
    organization: UUID
    goal: str
    dataset: UUID | None
    workflow: str
    thread_user: UUID
    thread_organization: UUID
    plan: str
    role: str | None
    is_staff: bool


def claim_step(run_id: UUID, *, worker: UUID) -> Claim | None:
    """Take one ready step of a run for `worker`; None when there is none, or the run is not running.

    The attempt that the claim raises is the fence of every later write.
    """
    try:
        with transaction.atomic():
            return take_step(run_id, worker=worker)
    except journal.Fenced:
        bury(run_id)
        return None


def take_step(run_id: UUID, *, worker: UUID) -> Claim | None:
    """As `claim_step`, within the caller's transaction.

    Raises:
        Fenced: the run has ended, or was paused meanwhile.
    """
    found = fetch(_CLAIM, {"run": run_id, "worker": worker})
    return _opened(run_id, worker, _Row(*found[0])) if found else None


def _opened(run_id: UUID, worker: UUID, row: _Row) -> Claim:
    context = _context(run_id, worker, row)
    if opening := _opening(row):
        journal.append(context.fence, opening)
    if row.attempt > 1 and not fetch(_RUNS, {"run": run_id}):
        # A postponed step's time may come while somebody pauses its run; the append has waited for them to be done.
        raise journal.Fenced(f"Run {run_id} was paused.")
    return Claim(
        context=context,
        workflow=row.workflow,
        losses=row.losses,
        barren_losses=row.barren_losses,
        artifacts=artifacts(run_id) if row.depends_on else {},
    )


def _context(run_id: UUID, worker: UUID, row: _Row) -> UserExecutionContext:
    role = row.role or Membership.Role.VIEWER
    return context_for(
        Principal(user_id=row.user, organization_id=row.organization, role=role, plan=row.plan),
        owners=[(row.thread_user, row.thread_organization)],
        thread_id=row.thread,
        run_id=run_id,
        step_id=row.id,
        step=row.name,
        attempt=row.attempt,
        worker=worker,
        agent=row.agent,
        goal=row.goal,
        dataset_id=row.dataset,
        deadline_at=row.deadline_at,
        operator=row.is_staff,
    )


def _opening(row: _Row) -> Fact | None:
    """A step is opened once; a later attempt says why it goes on, unless a person's answer has said so already."""
    if row.attempt == 1:
        return Fact("step_started", {"agent": row.agent})
    if row.reason:
        return Fact("run_recovering", {"attempt": row.attempt, "reason": row.reason})
    return None


def artifacts(run_id: UUID) -> Mapping[str, Artifact]:
    """What the completed steps of a run handed over, by name."""
    rows = fetch(_ARTIFACTS, {"run": run_id})
    return {name: Artifact(agent=agent, body=json.loads(body)) for name, agent, body in rows}


def release(context: UserExecutionContext, *, lost: bool = False) -> bool:
    """Give a step back, so that any worker may take it, or nobody if its run has ended; False when it was not ours.

    `lost` counts as a loss: the attempt broke off, instead of being handed over.
    """
    return release_held(step_id=context.step_id, attempt=context.attempt, lost=lost)


def release_held(*, step_id: int, attempt: int, lost: bool = False) -> bool:
    """As `release`, for a step of which no more is known."""
    given_back = {"step": step_id, "attempt": attempt, "reason": HANDED_OVER, "losses": int(lost)}
    rows = fetch(_RELEASE, given_back)
    for (run_id,) in rows:
        doorbell.ring(run_id)
    return bool(rows)


def bury(run_id: UUID) -> None:
    """Mark the steps of an ended run that nobody holds as skipped; does nothing while the run is live."""
    change(_BURY, {"run": run_id})


def abandon(context: UserExecutionContext) -> None:
    """After being fenced off: if that is because the run has ended, the step is over too."""
    change(_ABANDON, {"run": context.run_id, "step": context.step_id, "attempt": context.attempt})
