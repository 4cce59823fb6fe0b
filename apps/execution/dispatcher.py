"""One tool call, from asked to answered: who may, with which arguments, journaled before and after."""

import asyncio
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from django.db import transaction
from django.utils import timezone
from pydantic import BaseModel, ValidationError

from apps.conversations import journal
from apps.conversations.journal import Fact, Fenced
from apps.conversations.models import ToolCall
from apps.errors import NetraError
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Effect, Tool, tools
from apps.operations.database import in_database
from apps.operations.problems import new_support_id
from apps.realtime.schema import first_problem

log = structlog.get_logger(__name__)

_SECRET = re.compile(r"secret|password|token|api_?key|authorization", re.IGNORECASE)
REPEATABLE = frozenset({Effect.PURE, Effect.IDEMPOTENT})


@dataclass(frozen=True, kw_only=True)
class ToolAnswer:
    """What the agent gets back; a failure is a value that it can act on."""

    call: str
    tool: str
    status: str  # succeeded, failed, unknown, refused
    result: Mapping[str, Any] | None = None
    code: str = ""
    detail: str = ""


class ToolCallMismatch(NetraError):
    """A call was named again with another tool or other arguments."""

    code = "tool.call_mismatch"


class RequestScopedToolDispatcher:
    """The tools that one agent may use for one step, in the name of one user."""

    def __init__(self, context: UserExecutionContext, allowed: tuple[str, ...]) -> None:
        self._context = context
        self._allowed = {name: tools.get(name) for name in allowed}

    def get_available_tools(self) -> list[Tool]:
        """The tools that this agent may use for this user."""
        return [tool for tool in self._allowed.values() if self._context.principal.may(tool.role)]

    async def execute_tool(self, name: str, arguments: Mapping[str, Any], *, call: str) -> ToolAnswer:
        """Run one tool; `call` names the call, so that a later attempt of the step finds its result again.

        Raises:
            Fenced: the step is not held any more; nothing more may be done for it.
            ToolCallMismatch: `call` was used for something else.
        """
        tool = self._allowed.get(name)
        if tool is None or not self._context.principal.may(tool.role):
            reason = "no such tool" if tool is None else f"it needs the role {tool.role}"
            return await self._refuse(name, arguments, call, code="tool.refused", detail=f"{name}: {reason}.")
        try:
            checked = tool.arguments.model_validate(arguments)
        except ValidationError as error:
            detail = f"{name}: {first_problem(error)}."
            return await self._refuse(name, arguments, call, code="tool.arguments_invalid", detail=detail)
        row = await in_database(self._open, tool, checked.model_dump(mode="json"), call)
        if row.state != ToolCall.State.STARTED:
            return _stored_answer(row)
        if row.attempt != self._context.attempt and tool.effect not in REPEATABLE:
            detail = f"{name} was cut off; whether it took effect is not known."
            return await in_database(self._close, row, "unknown", None, "tool.unknown", detail)
        return await self._run(tool, checked, row)

    async def _run(self, tool: Tool, arguments: BaseModel, row: ToolCall) -> ToolAnswer:
        try:
            async with asyncio.timeout(tool.deadline):
                result = await tool.run(self._context, arguments)
        except TimeoutError:
            detail = f"{tool.name} took longer than {tool.deadline:g} s."
            return await in_database(self._close, row, "failed", None, "tool.deadline", detail)
        except Fenced:
            raise
        except NetraError as error:
            return await in_database(self._close, row, "failed", None, error.code, error.detail)
        except Exception as error:
            support_id = new_support_id()
            log.error("Tool failed", tool=tool.name, run=str(row.run_id), support_id=support_id, exc_info=error)
            detail = f"{tool.name} failed; support id {support_id}."
            return await in_database(self._close, row, "failed", None, "tool.failed", detail)
        return await in_database(
            self._close, row, "succeeded", result.model_dump(mode="json"), "", tool.summarize(result)
        )

    def _open(self, tool: Tool, arguments: dict[str, Any], call: str) -> ToolCall:
        """The call's row: new and opened by an event, or the one that an earlier attempt left."""
        key = idempotency_key(self._context, tool.name, arguments, call)
        with transaction.atomic():
            earlier = self._earlier(call)
            if earlier is not None:
                if earlier.idempotency_key != key:
                    raise ToolCallMismatch(f"Call {call!r} was made before with other arguments.")
                return earlier
            masked = _masked(arguments)
            journal.append(
                self._context.fence, Fact("tool_executing", {"call": call, "tool": tool.name, "arguments": masked})
            )
            return ToolCall.objects.create(
                run_id=self._context.run_id,
                step=self._context.step,
                call=call,
                tool=tool.name,
                effect=tool.effect,
                arguments=masked,
                idempotency_key=key,
                state=ToolCall.State.STARTED,
                attempt=self._context.attempt,
                worker=self._context.worker,
                started_at=timezone.now(),
            )

    def _close(self, row: ToolCall, status: str, result: dict[str, Any] | None, code: str, summary: str) -> ToolAnswer:
        """Result and event in one transaction: either both are known, or neither."""
        now = timezone.now()
        with transaction.atomic():
            journal.append(self._context.fence, closing(row, status=status, summary=summary, now=now))
            moved = ToolCall.objects.filter(pk=row.pk, state=ToolCall.State.STARTED).update(
                state=status, result=result, error_code=code, summary=summary, finished_at=now
            )
            if moved != 1:
                raise Fenced(f"Call {row.call} was closed by somebody else.")
        return ToolAnswer(call=row.call, tool=row.tool, status=status, result=result, code=code, detail=summary)

    async def _refuse(
        self, name: str, arguments: Mapping[str, Any], call: str, *, code: str, detail: str
    ) -> ToolAnswer:
        await in_database(self._store_refusal, name, dict(arguments), call, code, detail)
        return ToolAnswer(call=call, tool=name, status="refused", code=code, detail=detail)

    def _store_refusal(self, name: str, arguments: dict[str, Any], call: str, code: str, detail: str) -> None:
        """Once per call, whichever attempt comes first."""
        masked = _masked(arguments)
        asked = Fact("tool_executing", {"call": call, "tool": name, "arguments": masked})
        told = {"call": call, "tool": name, "status": "refused", "seconds": None, "summary": detail}
        with transaction.atomic():
            if self._earlier(call) is not None:
                return
            journal.append(self._context.fence, asked, Fact("tool_completed", told))
            ToolCall.objects.create(
                run_id=self._context.run_id,
                step=self._context.step,
                call=call,
                tool=name[:64],
                arguments=masked,
                idempotency_key=idempotency_key(self._context, name, arguments, call),
                state=ToolCall.State.REFUSED,
                attempt=self._context.attempt,
                error_code=code,
                summary=detail,
            )

    def _earlier(self, call: str) -> ToolCall | None:
        return ToolCall.objects.filter(run_id=self._context.run_id, step=self._context.step, call=call).first()


def closing(row: ToolCall, *, status: str, summary: str, now: Any) -> Fact:
    """The event that closes an open call."""
    seconds = (now - row.started_at).total_seconds() if row.started_at else None
    return Fact(
        "tool_completed",
        {"call": row.call, "tool": row.tool, "status": status, "seconds": seconds, "summary": summary},
    )


def idempotency_key(context: UserExecutionContext, tool: str, arguments: Mapping[str, Any], call: str) -> str:
    """The name of one intended effect: the same for each attempt to bring it about."""
    canonical = json.dumps([str(context.run_id), context.step, call, tool, arguments], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _stored_answer(row: ToolCall) -> ToolAnswer:
    return ToolAnswer(
        call=row.call, tool=row.tool, status=row.state, result=row.result, code=row.error_code, detail=row.summary
    )


def _masked(value: Any) -> Any:
    """`value` with whatever is named like a secret replaced."""
    if isinstance(value, Mapping):
        return {str(key): "***" if _SECRET.search(str(key)) else _masked(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_masked(inner) for inner in value]
    return value
