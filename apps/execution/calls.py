"""The journal of tool calls: intended, started, and then succeeded, failed or unknown; each change with its event."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from django.db import transaction
from django.utils import timezone
from psycopg.types.json import Json

from apps.conversations import journal
from apps.conversations.journal import Entry, Fact, Fenced
from apps.conversations.models import Question, Step, ToolCall
from apps.errors import NetraError
from apps.execution import doorbell, questions
from apps.execution.context import UserExecutionContext
from apps.execution.permissions import Spent, Verdict, may_call
from apps.execution.registry import Effect, Interruption, Place, Tool, Waiting
from apps.operations.database import storable
from apps.operations.debug_points import point
from apps.statements import change, fetch

log = structlog.get_logger(__name__)

_SECRET = re.compile(
    r"secret|passw(or)?d|passphrase|token|(api|access|private)[ _-]?key|authorization|bearer|credential|cookie",
    re.IGNORECASE,
)
REPEATABLE = frozenset({Effect.PURE, Effect.IDEMPOTENT})
DEADLY = 3  # attempts of a call in tool workers that may break off
GRACE = 5.0  # seconds beyond its deadline after which a tool worker is killed

_LOOK = """
select
    (select id from conversations_toolcall where run_id = %(run)s and step = %(step)s and call = %(call)s),
    (select count(*) from conversations_toolcall where user_id = %(user)s and state <> 'refused'
        and created_at > clock_timestamp() - interval '1 minute'),
    (select count(*) from conversations_toolcall where user_id = %(user)s and state <> 'refused'
        and created_at > clock_timestamp() - interval '1 day'),
    tool_calls_per_minute, tool_calls_per_day
from accounts_plan where code = %(plan)s
"""
_INSERT = """
insert into conversations_toolcall (run_id, user_id, step, call, tool, effect, place, arguments, payload,
    idempotency_key, state, attempt, worker, losses, rung_at, result, error_code, summary, created_at, started_at,
    finished_at)
values (%(run_id)s, %(user_id)s, %(step)s, %(call)s, %(tool)s, %(effect)s, %(place)s, %(arguments)s, %(payload)s,
    %(idempotency_key)s, %(state)s, %(attempt)s, %(worker)s, 0, %(rung_at)s, null, %(error_code)s, %(summary)s,
    %(created_at)s, %(started_at)s, %(finished_at)s)
returning id
"""
_SETTLE = """
update conversations_toolcall set state = %(state)s, result = %(result)s, error_code = %(error_code)s,
    summary = %(summary)s, finished_at = %(finished_at)s, payload = null
where id = %(id)s and attempt = %(attempt)s and finished_at is null
"""
_GIVEN = (
    *("run_id", "user_id", "step", "call", "tool", "effect", "place", "idempotency_key", "state", "attempt", "worker"),
    *("rung_at", "error_code", "summary", "created_at", "started_at", "finished_at"),
)


@dataclass(frozen=True, kw_only=True)
class ToolAnswer:
    """What the agent gets back; a failure is a value that it can act on."""

    call: str
    tool: str
    status: str  # succeeded, failed, unknown, refused
    result: Mapping[str, Any] | None = None
    code: str = ""
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Result:
    """How the work of a tool ended."""

    status: str  # succeeded, failed or unknown; refused where a tool worker may not begin
    result: Mapping[str, Any] | None = None
    code: str = ""
    summary: str


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A call's row, and whether an earlier attempt had started it."""

    row: ToolCall
    again: bool = False


class ToolCallMismatch(NetraError):
    """A call was named again with another tool or other arguments."""

    code = "tool.call_mismatch"


class ToolRefused(NetraError):
    """The call may not be made; `code` is the verdict."""

    def __init__(self, verdict: str, detail: str) -> None:
        super().__init__(detail)
        self.code = f"tool.{verdict}"


def effect_key(context: UserExecutionContext, tool: str, arguments: Mapping[str, Any], call: str) -> str:
    """The name of one intended effect (the idempotency key): the same for each attempt to bring it about."""
    canonical = json.dumps([str(context.run_id), context.step, call, tool, arguments], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


# --- Opening ---------------------------------------------------------------------------------------------------------


def open_call(context: UserExecutionContext, tool: Tool, arguments: dict[str, Any], call: str) -> Opened:
    """The call's row: new and opened by an event, or the one that an earlier attempt left.

    What shall run inline now is `started` under this attempt; what shall run in a tool worker is `intended`, and rung
    for. Anything else has been settled, or is at work.

    Raises:
        Fenced: the step is not held any more.
        ToolCallMismatch: the call was made before, with other arguments.
        ToolRefused: it may not be made.
        Interruption: a person has to be asked first, and was.
    """
    key = effect_key(context, tool.name, arguments, call)
    made, spent = _look(context, call)
    if made is None:
        return _begin(context, tool, arguments, call, key, spent)
    row = ToolCall.objects.get(pk=made)
    if row.state == ToolCall.State.REFUSED:
        return Opened(row=row)  # under its arguments as they came, which nobody had checked
    if row.idempotency_key != key:
        raise _mismatch(call)
    if row.finished_at is not None or (row.place == Place.WORKER and row.state != ToolCall.State.UNKNOWN):
        return Opened(row=row)
    return _resume(context, tool, row)


def _mismatch(call: str) -> ToolCallMismatch:
    return ToolCallMismatch(f"Call {call!r} was made before with other arguments.")


def find(context: UserExecutionContext, call: str) -> ToolCall | None:
    """The row of a call of this step, whichever attempt made it."""
    return ToolCall.objects.filter(run_id=context.run_id, step=context.step, call=call).first()


def get(context: UserExecutionContext, call: str) -> ToolCall:
    """The row of a call that has been made."""
    return ToolCall.objects.get(run_id=context.run_id, step=context.step, call=call)


def _begin(
    context: UserExecutionContext, tool: Tool, arguments: dict[str, Any], call: str, key: str, spent: Spent
) -> Opened:
    ruling = may_call(tool, spent, approved=False)
    if ruling.verdict == Verdict.APPROVAL_NEEDED:
        _require_leave(context, tool, masked(arguments), call, key)
        ruling = may_call(tool, spent, approved=True)
    if ruling.verdict != Verdict.ALLOWED:
        raise ToolRefused(ruling.verdict, ruling.reason)
    row = _row(context, tool.name, arguments, call, key)
    row.effect, row.place = tool.effect, tool.place
    if tool.place == Place.WORKER:
        row.payload, row.attempt, row.worker = storable(arguments), 0, None
    else:
        row.state, row.started_at = ToolCall.State.STARTED, timezone.now()
    asked = {"call": call, "tool": tool.name, "arguments": row.arguments}
    with transaction.atomic():
        journal.append(context.fence, Fact("tool_executing", asked))
        _insert(row)
        _ring(tool, row)
    return Opened(row=row)


def _look(context: UserExecutionContext, call: str) -> tuple[int | None, Spent]:
    """The call's row if it was made before, and what the user has called already."""
    who = {"user": context.principal.user_id, "plan": context.principal.plan}
    rows = fetch(_LOOK, {"run": context.run_id, "step": context.step, "call": call, **who})
    made, last_minute, last_day, per_minute, per_day = rows[0]
    return made, Spent(last_minute=last_minute, last_day=last_day, per_minute=per_minute, per_day=per_day)


def _require_leave(context: UserExecutionContext, tool: Tool, shown: Mapping[str, Any], call: str, key: str) -> None:
    reason = Question.Reason.UNSAFE
    said = questions.ask_for_leave(context, call=call, tool=tool.name, arguments=shown, reason=reason, effect_key=key)
    # Leave was asked for what was shown; a later attempt that wants something else under the same name has none.
    if said.effect_key != key:
        raise _mismatch(call)
    if said.value is None:
        raise Interruption(Waiting(call=call))
    if said.value != "approve":
        raise ToolRefused("denied", f"{tool.name}: its use was not approved.")


def _resume(context: UserExecutionContext, tool: Tool, row: ToolCall) -> Opened:
    """What an earlier attempt began and nobody finished: repeat it if that is harmless, else ask."""
    if tool.effect in (*REPEATABLE, Effect.QUERYABLE):
        return _take_over(context, tool, row)
    if row.state == ToolCall.State.STARTED:
        _doubt(context, row)
    reason = Question.Reason.UNKNOWN_EFFECT
    shown = row.arguments
    said = questions.ask_for_leave(
        context, call=row.call, tool=tool.name, arguments=shown, reason=reason, effect_key=row.idempotency_key
    ).value
    if said is None:
        raise Interruption(Waiting(call=row.call))
    if said == "retry":
        return _take_over(context, tool, row, leave=reason)
    detail = f"{tool.name} was cut off; whether it took effect is not known."
    close_call(context, row, Result(status=ToolCall.State.UNKNOWN, code="tool.unknown", summary=detail))
    return Opened(row=row)


def _doubt(context: UserExecutionContext, row: ToolCall) -> None:
    """Write down that nobody knows whether the call took effect."""
    with transaction.atomic():
        journal.hold(context.fence)
        ToolCall.objects.filter(pk=row.pk, state=row.state).update(state=ToolCall.State.UNKNOWN)
    row.state = ToolCall.State.UNKNOWN


def _take_over(context: UserExecutionContext, tool: Tool, row: ToolCall, leave: str | None = None) -> Opened:
    """Have this attempt, and no earlier one, see to the call; `leave` given for it is used up."""
    changes: dict[str, Any] = {"state": ToolCall.State.STARTED, "attempt": context.attempt, "worker": context.worker}
    if row.place == Place.WORKER:
        changes = {"state": ToolCall.State.INTENDED, "worker": None, "losses": 0, "rung_at": timezone.now()}
    with transaction.atomic():
        journal.hold(context.fence)
        if ToolCall.objects.filter(pk=row.pk, state=row.state, attempt=row.attempt).update(**changes) != 1:
            raise Fenced(f"Call {row.call} went on elsewhere.")
        if leave is not None:
            questions.forget(context, call=row.call, reason=leave)
        for name, value in changes.items():
            setattr(row, name, value)
        _ring(tool, row)
    return Opened(row=row, again=True)


def _ring(tool: Tool, row: ToolCall) -> None:
    if row.place == Place.WORKER:
        doorbell.ring_for_tool(row.pk, seconds=tool.deadline + GRACE)


def _row(context: UserExecutionContext, tool: str, arguments: dict[str, Any], call: str, key: str) -> ToolCall:
    return ToolCall(
        run_id=context.run_id,
        user_id=context.principal.user_id,
        step=context.step,
        call=call,
        tool=tool[:64],
        arguments=masked(storable(arguments)),
        idempotency_key=key,
        attempt=context.attempt,
        worker=context.worker,
    )


def _insert(row: ToolCall) -> None:
    payload = None if row.payload is None else Json(row.payload)
    given = {name: getattr(row, name) for name in _GIVEN} | {"arguments": Json(row.arguments), "payload": payload}
    [(row.pk,)] = fetch(_INSERT, given)


# --- Closing ---------------------------------------------------------------------------------------------------------


def close_call(context: UserExecutionContext, row: ToolCall, result: Result) -> None:
    """Store how an inline call ended, with its event, and change `row` likewise.

    Raises:
        Fenced: the step is not held any more, or the call was closed by somebody else.
    """
    point("tool.effect_done")
    now = timezone.now()
    with transaction.atomic():
        if _is_closed(row):
            return
        journal.append(context.fence, closing(row, status=result.status, summary=result.summary, now=now))
        settle_row(row, result, now)


def close_call_at_worker(row: ToolCall, result: Result, *, thread: UUID, step_attempt: int) -> None:
    """As `close_call`, for a call that a tool worker holds: the call's own attempt is the fence.

    Raises:
        Fenced: the run has ended, or another worker has the call.
    """
    point("tool.effect_done")
    now = timezone.now()
    entry: Entry = (closing(row, status=result.status, summary=result.summary, now=now), row.step, step_attempt)
    with transaction.atomic():
        if _is_closed(row):
            return
        journal.append_to_run(thread=thread, run=row.run_id, facts=[entry])
        settle_row(row, result, now)


def _is_closed(row: ToolCall) -> bool:
    """Whether an earlier try to close the call, of which no more was heard, has done so."""
    if row.finished_at is None:
        return False
    # Its attempt stays: another one that has it by now is not this one's to close.
    row.refresh_from_db(fields=["state", "result", "error_code", "summary", "finished_at"])
    return row.finished_at is not None


def take_back(call_id: int, *, attempt: int) -> None:
    """See to a call in a tool worker whose attempt broke off.

    It is made again if that is harmless and its time is not over, else closed; of an effect that may have happened, its
    fate is unknown. Nothing is done when the call is closed, or when another attempt has it by now.
    """
    row = (
        ToolCall.objects.select_related("run").filter(pk=call_id, state=ToolCall.State.STARTED, attempt=attempt).first()
    )
    if row is None:
        return
    held = ToolCall.objects.filter(pk=call_id, state=ToolCall.State.STARTED, attempt=attempt)
    if row.effect not in (*REPEATABLE, Effect.QUERYABLE):
        held.update(state=ToolCall.State.UNKNOWN)
    elif row.deadline_at is not None and row.deadline_at < timezone.now():
        _close_lost(row, "tool.deadline", f"{row.tool} did not come to an end in time.")
    elif row.losses + 1 >= DEADLY:
        _close_lost(row, "tool.crashed", f"{row.tool} broke off {DEADLY} times.")
    else:
        # Rung for by the next look of the sweep: it waits as if its ring had been lost.
        held.update(state=ToolCall.State.INTENDED, worker=None, losses=row.losses + 1)


def _close_lost(row: ToolCall, code: str, summary: str) -> None:
    step = Step.objects.get(run_id=row.run_id, name=row.step)
    status = ToolCall.State.FAILED if row.effect == Effect.PURE else ToolCall.State.UNKNOWN
    result = Result(status=status, code=code, summary=summary)
    try:
        close_call_at_worker(row, result, thread=row.run.thread_id, step_attempt=step.attempt)
    except Fenced as error:
        log.info("A lost tool call needs no end any more", call=row.pk, reason=error.detail)


def settle_row(row: ToolCall, result: Result, now: datetime) -> None:
    """Close the row by compare-and-set on the attempt that holds it.

    Raises:
        Fenced: it is held by another, or closed.
    """
    changes = {
        "state": result.status,
        "result": storable(result.result),
        "error_code": result.code,
        "summary": storable(result.summary),
        "finished_at": now,
    }
    stored = changes | {"result": None if result.result is None else Json(changes["result"])}
    if change(_SETTLE, {"id": row.pk, "attempt": row.attempt, **stored}) != 1:
        raise Fenced(f"Call {row.call} was closed by somebody else.")
    for name, value in changes.items():
        setattr(row, name, value)


def closing(row: ToolCall, *, status: str, summary: str, now: datetime) -> Fact:
    """The event that closes an open call."""
    # The two times are of two clocks.
    seconds = max((now - row.started_at).total_seconds(), 0.0) if row.started_at else None
    return Fact(
        "tool_completed",
        {"call": row.call, "tool": row.tool, "status": status, "seconds": seconds, "summary": summary},
    )


def refuse_call(
    context: UserExecutionContext, name: str, arguments: dict[str, Any], call: str, refusal: NetraError
) -> ToolAnswer:
    """Journal that a call was not made, once per call, whichever attempt comes first."""
    row = _row(context, name, arguments, call, effect_key(context, name, arguments, call))
    row.state, row.error_code, row.summary = ToolCall.State.REFUSED, refusal.code, refusal.detail
    row.finished_at = timezone.now()
    asked = Fact("tool_executing", {"call": call, "tool": name, "arguments": row.arguments})
    told = {"call": call, "tool": name, "status": "refused", "seconds": None, "summary": refusal.detail}
    with transaction.atomic():
        if find(context, call) is None:
            journal.append(context.fence, asked, Fact("tool_completed", told))
            _insert(row)
    return stored_answer(row)


def stored_answer(row: ToolCall) -> ToolAnswer:
    """The answer that a settled row holds."""
    return ToolAnswer(
        call=row.call, tool=row.tool, status=row.state, result=row.result, code=row.error_code, detail=row.summary
    )


def masked(value: Any) -> Any:
    """`value` with whatever is named like a secret replaced."""
    if isinstance(value, Mapping):
        return {str(key): "***" if _SECRET.search(str(key)) else masked(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [masked(inner) for inner in value]
    return value
