"""The tools of one step: who may use which, and one journaled call of one, from asked to answered."""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from pydantic import BaseModel, ValidationError

from apps.errors import NetraError
from apps.execution import calls
from apps.execution.calls import ToolAnswer, ToolRefused
from apps.execution.context import UserExecutionContext, call_name
from apps.execution.mailbox import mailbox
from apps.execution.permissions import Verdict, may_use
from apps.execution.registry import Agent, AlreadyRegistered, Interruption, Place, Tool, postponed, tools
from apps.execution.tool_runs import breaker_of, run_tool
from apps.operations.database import in_database, through_outage
from apps.realtime.schema import first_problem
from apps.resilience.breaker import BreakerOpen, Permit


class Disposed(NetraError):
    """The step is over; its dispatcher runs nothing any more."""

    code = "dispatcher.disposed"
    status = 500


class RequestScopedToolDispatcher:
    """The tools that one agent may use for one step, in the name of one user. Made by `ToolExecutorFactory`.

    Use it as a context manager, or call `cleanup`; afterwards it refuses everything.
    """

    def __init__(self, context: UserExecutionContext, allowed: Mapping[str, Tool]) -> None:
        self._context = context
        self._allowed = dict(allowed)
        self._disposed = False

    def __enter__(self) -> "RequestScopedToolDispatcher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cleanup()

    def cleanup(self) -> None:
        """Forget the tools; nothing is run from now on."""
        self._disposed = True
        self._allowed.clear()

    def has_tool(self, name: str) -> bool:
        """Whether the agent may use a tool of that name for this user."""
        return name in self._allowed and may_use(self._context, self._allowed[name]).verdict == Verdict.ALLOWED

    def get_available_tools(self) -> list[Tool]:
        """The tools that the agent may use for this user."""
        return [tool for name, tool in self._allowed.items() if self.has_tool(name)]

    def register_tool(self, tool: Tool) -> None:
        """Add a tool for this step only; it runs inline, since no other process knows it.

        Raises:
            Disposed: the step is over.
            AlreadyRegistered: the name is taken.
        """
        self._require_open(self._context)
        if tool.name in self._allowed or tool.name in tools or tool.place != Place.INLINE:
            raise AlreadyRegistered(f"{tool.name!r} is taken, or wants to run elsewhere.")
        self._allowed[tool.name] = tool

    async def execute_tool(
        self, name: str, arguments: Mapping[str, Any], *, call: str, context: UserExecutionContext | None = None
    ) -> ToolAnswer:
        """Run one tool; `call` names the call, so that a later attempt of the step finds its result again.

        A name that is too long for the journal is shortened, the same each time.

        `context` is that of a request within the step, whose rights and time count then.

        Raises:
            Fenced: the step is not held any more; nothing more may be done for it.
            Interruption: the step cannot go on now; let it through.
            ToolCallMismatch: `call` was used for something else.
            Disposed, ForeignContext: the dispatcher is not for this, or not any more.
        """
        context, call = context or self._context, call_name(call)
        self._require_open(context)
        try:
            tool = self._permitted(name, context)
            checked = _checked(tool, arguments)
            return await self._call(tool, checked, call, context)
        except ToolRefused as refusal:
            return await in_database(calls.refuse_call, self._context, name, dict(arguments), call, refusal)

    async def _call(self, tool: Tool, arguments: BaseModel, call: str, context: UserExecutionContext) -> ToolAnswer:
        """Open the call, have it done here or in a tool worker, and close it.

        Raises:
            Interruption: the tool's breaker is open; the step waits, and holds no worker meanwhile.
        """
        try:
            if tool.place == Place.WORKER:
                await asyncio.to_thread(breaker_of(tool).check)  # the tool worker takes the permit
                return await self._call_elsewhere(tool, arguments, call)
            permit = await breaker_of(tool).acquire_async()
        except BreakerOpen as refusal:
            row = await in_database(calls.find, self._context, call)
            if row is not None and row.finished_at is not None:
                return calls.stored_answer(row)
            raise Interruption(postponed(refusal)) from refusal
        try:
            return await self._call_here(tool, arguments, call, context, permit)
        finally:
            permit.released()  # without effect once it has been told how the call went

    async def _open(self, tool: Tool, arguments: BaseModel, call: str) -> calls.Opened:
        return await in_database(calls.open_call, self._context, tool, arguments.model_dump(mode="json"), call)

    async def _call_here(
        self, tool: Tool, arguments: BaseModel, call: str, context: UserExecutionContext, permit: Permit
    ) -> ToolAnswer:
        opened = await self._open(tool, arguments, call)
        row = opened.row
        if row.finished_at is None:
            request = context.child(effect_key=row.idempotency_key)
            result = await run_tool(tool, request, arguments, again=opened.again, permit=permit)
            await through_outage(calls.close_call, self._context, row, result)
        return calls.stored_answer(row)

    async def _call_elsewhere(self, tool: Tool, arguments: BaseModel, call: str) -> ToolAnswer:
        """Wait for a tool worker; when nobody knows what became of the call, opening it again asks a person."""
        row = (await self._open(tool, arguments, call)).row
        while row.finished_at is None:
            await mailbox().settled(row.pk)
            row = (await self._open(tool, arguments, call)).row
        return calls.stored_answer(row)

    def _permitted(self, name: str, context: UserExecutionContext) -> Tool:
        if name not in self._allowed:
            raise ToolRefused(Verdict.DENIED, f"{name}: {self._context.agent} has no such tool.")
        ruling = may_use(context, self._allowed[name])
        if ruling.verdict != Verdict.ALLOWED:
            raise ToolRefused(ruling.verdict, ruling.reason)
        return self._allowed[name]

    def _require_open(self, context: UserExecutionContext) -> None:
        if self._disposed:
            raise Disposed("This step is over.")
        self._context.require_same(context)


def _checked(tool: Tool, arguments: Mapping[str, Any]) -> BaseModel:
    try:
        return tool.arguments.model_validate(arguments)
    except ValidationError as error:
        raise ToolRefused("arguments_invalid", f"{tool.name}: {first_problem(error)}.") from error


class ToolExecutorFactory:
    """Makes the dispatcher of a step, out of the one registry of tools; the only place that does."""

    @staticmethod
    def create(context: UserExecutionContext, agent: Agent) -> RequestScopedToolDispatcher:
        """The dispatcher for `agent` in the name of the context's user, closed with the context's scope.

        Raises:
            NotRegistered: the agent wants a tool that does not exist.
        """
        dispatcher = RequestScopedToolDispatcher(context, {name: tools.get(name) for name in agent.tools})
        context.resources.callback(dispatcher.cleanup)
        return dispatcher
