"""One tool call in a process of its own: claimed, run within hard limits, and closed under its own fence."""

import asyncio
import resource
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from django.conf import settings
from django.db.models.functions import Now

from apps.accounts.models import Membership
from apps.accounts.tenancy import Principal
from apps.conversations.journal import Fenced
from apps.conversations.models import ToolCall
from apps.execution import calls
from apps.execution.calls import Result
from apps.execution.context import UserExecutionContext, context_for, user_execution_scope
from apps.execution.permissions import Verdict, may_use
from apps.execution.registry import Interruption, Tool, postponed, tools
from apps.execution.tool_runs import breaker_of, run_tool
from apps.operations.database import through_outage_here
from apps.resilience.breaker import BreakerOpen, Permit
from apps.statements import fetch

log = structlog.get_logger(__name__)

# A run that waits works on nothing: its calls are made when it goes on.
# A call that this process holds already, under the attempt that it is about to take, is a claim of which it heard no
# more. Under an earlier one it could not be closed: it may have taken effect, and is not this ring's to make.
_CLAIM = """
with claimed as (
    update conversations_toolcall call set state = 'started', attempt = %(seen)s + 1, worker = %(worker)s,
        started_at = coalesce(call.started_at, clock_timestamp()), error_code = '', summary = '',
        deadline_at = least(clock_timestamp() + %(seconds)s * interval '1 second', run.deadline_at)
    from conversations_run run join conversations_thread thread on thread.live_run = run.id
    where call.id = %(call)s and call.place = 'worker' and run.id = call.run_id and run.state = 'running'
        and ((call.state = 'intended' and call.attempt = %(seen)s)
            or (call.state = 'started' and call.attempt = %(seen)s + 1 and call.worker = %(worker)s))
    returning call.attempt, call.started_at, call.losses, call.step, call.payload, call.idempotency_key,
        call.deadline_at, run.id as run, run.thread_id, run.user_id, run.organization_id, run.goal, run.dataset,
        thread.user_id as thread_user, thread.organization_id as thread_organization
)
select claimed.*, step.id, step.agent, step.attempt, organization.plan_id, membership.role,
    person.is_staff and person.is_active
from claimed
join conversations_step step on step.run_id = claimed.run and step.name = claimed.step
join accounts_organization organization on organization.id = claimed.organization_id
join accounts_user person on person.id = claimed.user_id
left join accounts_membership membership
    on membership.user_id = claimed.user_id and membership.organization_id = claimed.organization_id
        and person.is_active
"""


@dataclass(frozen=True)
class _Row:
    """A row of `_CLAIM`, in its order."""

    attempt: int
    started_at: datetime
    losses: int
    step: str
    payload: str
    effect_key: str
    deadline_at: datetime
    run: UUID
    thread: UUID
    user: UUID
    organization: UUID
    goal: str
    dataset: UUID | None
    thread_user: UUID
    thread_organization: UUID
    step_id: int
    agent: str
    step_attempt: int
    plan: str
    role: str | None
    is_staff: bool


def limit_memory() -> None:
    """Let this process have only so much memory; a tool that wants more gets a MemoryError."""
    most = settings.TOOL_MEMORY_MIB * 1024**2
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def run_call(call_id: int, *, worker: UUID) -> None:
    """Run a call that is still to be run; harmless where it is not."""
    call = through_outage_here(ToolCall.objects.filter(pk=call_id).first)
    if call is None or call.tool not in tools:
        log.warning("No such tool call, or no such tool in this release", call=call_id)
        return
    tool = tools.get(call.tool)
    try:
        permit = breaker_of(tool).acquire()
    except BreakerOpen as refusal:
        through_outage_here(_postpone, call_id, refusal)
        return
    try:
        _run_claimed(call, tool, worker, permit)
    finally:
        permit.released()  # without effect once it has been told how the call went


def _postpone(call_id: int, refusal: BreakerOpen) -> None:
    """Have the call rung for again when its breaker may let it through, and the step that waits for it put off."""
    put_off = postponed(refusal)
    ToolCall.objects.filter(pk=call_id, state=ToolCall.State.INTENDED).update(
        rung_at=Now() + timedelta(seconds=put_off.seconds), error_code=refusal.code, summary=put_off.reason
    )


def _run_claimed(call: ToolCall, tool: Tool, worker: UUID, permit: Permit) -> None:
    row = through_outage_here(_claim, call, tool, worker)
    if row is None:
        return
    with structlog.contextvars.bound_contextvars(run=str(row.run), trace=row.run.hex, step=row.step, tool=tool.name):
        call.attempt, call.started_at = row.attempt, row.started_at
        try:
            result = asyncio.run(_run(tool, row, _context(row, worker), permit))
            through_outage_here(
                calls.close_call_at_worker, call, result, thread=row.thread, step_attempt=row.step_attempt
            )
        except Fenced as error:
            log.info("Tool call lost", reason=error.detail)
        except Exception as error:
            log.error("Tool call broke off; giving it back", exc_info=error)
            through_outage_here(calls.take_back, call.pk, attempt=row.attempt)


def _claim(call: ToolCall, tool: Tool, worker: UUID) -> _Row | None:
    """Take the call under the attempt after the one that `call` was seen with; None when somebody else was quicker."""
    found = fetch(_CLAIM, {"call": call.pk, "seen": call.attempt, "worker": worker, "seconds": tool.deadline})
    return _Row(*found[0]) if found else None


async def _run(tool: Tool, row: _Row, context: UserExecutionContext, permit: Permit) -> Result:
    # The call may have lain here for long: the rights that count are those of now.
    ruling = may_use(context, tool)
    if ruling.verdict != Verdict.ALLOWED:
        return Result(status="refused", code=f"tool.{ruling.verdict}", summary=ruling.reason)
    arguments = tool.arguments.model_validate_json(row.payload)
    async with user_execution_scope(context):
        try:
            return await run_tool(tool, context, arguments, again=row.losses > 0, permit=permit)
        except Interruption:
            return Result(
                status="failed", code="tool.interrupted", summary=f"{tool.name} cannot wait in a tool worker."
            )


def _context(row: _Row, worker: UUID) -> UserExecutionContext:
    role = row.role or Membership.Role.VIEWER
    return context_for(
        Principal(user_id=row.user, organization_id=row.organization, role=role, plan=row.plan),
        owners=[(row.thread_user, row.thread_organization)],
        thread_id=row.thread,
        run_id=row.run,
        step_id=row.step_id,
        step=row.step,
        attempt=max(row.step_attempt, 1),
        worker=worker,
        agent=row.agent,
        goal=row.goal,
        dataset_id=row.dataset,
        deadline_at=row.deadline_at,
        operator=row.is_staff,
        effect_key=row.effect_key,
        depth=1,
    )
