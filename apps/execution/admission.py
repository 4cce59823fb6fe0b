"""Which queued run starts next: the least recently served user first, in order within a thread, at most so many each.

A few statements in a short transaction (tried under 40 claimers; SKIP LOCKED lets them pass each other). There is no
counter that could leak: the running runs of a user are counted from the rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from django.db import transaction

from apps.conversations import journal
from apps.conversations.journal import Fact
from apps.conversations.models import Step
from apps.execution import claims, doorbell, releases
from apps.execution.claims import Claim
from apps.execution.endings import fail_run
from apps.execution.registry import STEP_DEADLINE, Failed, StepSpec, agents, workflows
from apps.operations.problems import new_support_id
from apps.statements import change, fetch

_ANYBODY = "select 1 from accounts_user where runnable limit 1"
_NEXT_USER = """
select id from accounts_user where runnable order by served_at limit 1 for no key update skip locked
"""
_NEXT_RUN = """
select run.id, run.thread_id, run.workflow, run.goal, run.started_at, plan.max_run_seconds,
    (select is_staff from accounts_user where id = %(user)s) as is_staff
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
_STEPS = """
insert into conversations_step (run_id, name, agent, position, depends_on, patience, state,
    attempt, reason, losses, barren_losses, journaled, summary)
select %(run)s, step.name, step.agent, step.place - 1, string_to_array(step.depends_on, ','), step.patience, step.state,
    0, '', 0, 0, 0, ''
from unnest(%(names)s::text[], %(agents)s::text[], %(depends_on)s::text[], %(patiences)s::float8[], %(states)s::text[])
    with ordinality as step(name, agent, depends_on, patience, state, place)
"""
_STARTED = """
with served as (
    update accounts_user set served_at = clock_timestamp(), runnable = exists (
        select from conversations_run other
        where other.user_id = %(user)s and other.state = 'queued' and other.id <> %(run)s)
    where id = %(user)s
)
update conversations_run set state = 'running', not_before = null, started_at = coalesce(started_at, clock_timestamp()),
    deadline_at = clock_timestamp() + least(seconds_left, %(seconds)s) * interval '1 second'
where id = %(run)s and state = 'queued'
returning (select exists (select from accounts_user where runnable and id <> %(user)s)
    or exists (select from conversations_run other
        where other.user_id = %(user)s and other.state = 'queued' and other.id <> %(run)s))
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
    is_staff: bool


def admit_one() -> UUID | None:
    """Start the next admissible run, or let it go on if it had to wait, and answer its id; None when nobody has one."""
    with transaction.atomic():
        return admitted.run if (admitted := _admit_next()) else None


def next_step(run_id: UUID | None, *, worker: UUID) -> Claim | None:
    """Take a ready step of the run for `worker`, else the first one of the next admissible run; None without either."""
    claim = claims.claim_step(run_id, worker=worker) if run_id is not None else None
    return claim or admit_and_claim(worker=worker)


def admit_and_claim(*, worker: UUID) -> Claim | None:
    """Start the next admissible run and take its first step for `worker`, in one transaction; None without one."""
    while fetch(_ANYBODY, {}):
        with transaction.atomic():
            admitted = _admit_next()
            if admitted is None:
                return None
            if claim := claims.take_step(admitted.run, worker=worker):
                return replace(claim, others_wait=admitted.others_wait)
    return None


@dataclass(frozen=True)
class _Admitted:
    run: UUID
    others_wait: bool


def _admit_next() -> _Admitted | None:
    while users := fetch(_NEXT_USER, {}):
        user = users[0][0]
        if found := fetch(_NEXT_RUN, {"user": user}):
            queued = _Queued(*found[0])
            return _Admitted(queued.run, others_wait=_admit(queued, user))
        change(_REST, {"user": user})
    return None


def _admit(queued: _Queued, user: UUID) -> bool:
    """Start the run; answers whether another one may be waiting for its start."""
    if queued.workflow not in workflows:
        return _refuse(queued, user)
    workflow = workflows.get(queued.workflow)
    if queued.started_at is None:
        lead = {"agent": workflow.lead, "workflow": workflow.name, "goal": queued.goal}
        journal.begin_run(thread=queued.thread, run=queued.run, started=Fact("agent_started", lead))
        _create_steps(queued.run, [_chosen(spec, user, queued.is_staff) for spec in workflow.steps])
    return _set_running(queued, user, min(workflow.deadline, queued.most_seconds))


def _chosen(spec: StepSpec, user: UUID, is_staff: bool) -> StepSpec:
    """The step with the version of its agent that the run's owner gets."""
    return replace(spec, agent=releases.agent_for(spec.agent, user_id=user, is_staff=is_staff))


def _create_steps(run: UUID, specs: Sequence[StepSpec]) -> None:
    states = [Step.State.BLOCKED if spec.depends_on else Step.State.READY for spec in specs]
    rows = {
        "names": [spec.name for spec in specs],
        "agents": [spec.agent for spec in specs],
        "depends_on": [",".join(spec.depends_on) for spec in specs],
        "patiences": [patience(spec) for spec in specs],
        "states": [str(state) for state in states],
    }
    change(_STEPS, {"run": run, **rows})
    # Whoever admits takes one of them itself.
    for _ in range(states.count(Step.State.READY) - 1):
        doorbell.ring(run)


def patience(spec: StepSpec) -> float:
    """Seconds that one attempt of the step may take."""
    # An agent that this release does not know is told by the engine, which can end the run.
    return spec.deadline or (agents.get(spec.agent).deadline if spec.agent in agents else STEP_DEADLINE)


def _set_running(queued: _Queued, user: UUID, seconds: float) -> bool:
    [(others_wait,)] = fetch(_STARTED, {"run": queued.run, "user": user, "seconds": seconds})
    return bool(others_wait)


def _refuse(queued: _Queued, user: UUID) -> bool:
    """End a run whose workflow this release does not have; it would stand in everybody's way otherwise."""
    name = queued.workflow
    if queued.started_at is None:
        lead = {"agent": name, "workflow": name, "goal": queued.goal}
        journal.begin_run(thread=queued.thread, run=queued.run, started=Fact("agent_started", lead))
    others_wait = _set_running(queued, user, 0.0)
    gone = Failed(
        code="workflow.unknown",
        detail=f"This release has no workflow {name!r}.",
        retryable=True,
        suggestions=("Ask again.",),
        support_id=new_support_id(),
    )
    fail_run(run=queued.run, thread=queued.thread, user=user, failure=gone)
    return others_wait
