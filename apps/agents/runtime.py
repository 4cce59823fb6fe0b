"""A conversation of one agent with its model, inside one step.

Imported inside a run only: it loads the agent library.
"""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import structlog
from django.db import transaction
from pydantic import BaseModel, ValidationError
from pydantic_ai.exceptions import (
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelContextWindowExceededError,
    ModelHTTPError,
    ModelNotFoundError,
    ModelQuotaExceededError,
    ModelRequestRejectedError,
    UnexpectedModelBehavior,
)
from pydantic_ai.messages import (
    InstructionPart,
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.tools import ToolDefinition

from apps.conversations import journal
from apps.conversations.journal import Fact
from apps.errors import NetraError
from apps.execution.calls import ToolAnswer
from apps.execution.registry import Interruption, Tool, postponed
from apps.execution.scope import StepScope
from apps.llm.gateway import ask
from apps.llm.ledger import Asker
from apps.resilience.breaker import BreakerOpen

log = structlog.get_logger(__name__)

T = TypeVar("T", bound=BaseModel | str)
Refuse = Callable[[Mapping[str, Any]], str | None]

TURNS = 12  # answers of the model in one conversation
MENDS = 2  # outputs of one conversation that may be mended
OUTPUT_TOOL = "final_result"  # what a model calls to hand in a typed output
THOUGHT_LENGTH = 280  # characters of one event
THOUGHTS = 20  # events of one answer; what a model thinks beyond is not told


class ModelUnavailable(NetraError):
    """The configured endpoint could not be reached, is overloaded, or failed; later it may answer."""

    code = "model.unavailable"
    status = 503
    retryable = True


class ModelRefused(NetraError):
    """The configured endpoint does not accept what it is asked, and will not until somebody changes something."""

    code = "model.refused"
    status = 502


class ModelConfused(NetraError):
    """The model did not do its part within the turns it has."""

    code = "model.confused"
    status = 502
    retryable = True


# What the endpoint refuses, the narrower kind first, and what is to be checked.
_REFUSALS: Mapping[type[ModelAPIError], str] = {
    ModelAuthenticationError: "The model endpoint does not let us in{status}. Check NETRA_LLM_API_KEY.",
    ModelNotFoundError: "There is no model {model} at the endpoint{status}. Check NETRA_LLM_MODEL and _BASE_URL.",
    ModelContextWindowExceededError: "This is more than {model} can read{status}. Check NETRA_LLM_MODEL.",
    ModelRequestRejectedError: "The model endpoint refused the request{status}. Check that {model} can call tools.",
    ModelQuotaExceededError: "The quota at the model endpoint is used up{status}. Check its plan and billing.",
}


@dataclass(kw_only=True)
class Said(Generic[T]):
    """What came of a conversation: the typed output, and every tool answer behind it."""

    output: T
    answers: list[ToolAnswer] = field(default_factory=list)


async def converse(
    scope: StepScope,
    *,
    instructions: str,
    prompt: str,
    output: type[T],
    offline: Model,
    check: Callable[[T], str | None] | None = None,
    tools: Sequence[str] = (),
    refuse: Refuse | None = None,
) -> Said[T]:
    """Let the model think, call those of the step's tools that are named, and answer with `output`: text, or a model.

    `check(output)` may answer a complaint; the model is then asked to mend it, twice. `refuse(arguments)` may answer
    why a tool is not called with them; the model gets that instead of a result.

    Raises:
        ModelUnavailable, ModelRefused, ModelConfused: the model failed.
        Interruption: the endpoint keeps failing; the step waits until it is tried again.
        Fenced: the step is not held any more.
    """
    offered = {tool.name: tool for tool in scope.tools.get_available_tools() if tool.name in tools}
    talk = _Conversation(scope=scope, output=output, offered=offered, check=check, refuse=refuse)
    try:
        with _asking(scope) as asker:
            said = await talk.hold(partial(ask, asker, offline=offline, heard=talk.hear), instructions, prompt)
    except BreakerOpen as refusal:
        raise Interruption(postponed(refusal)) from refusal
    except ModelAPIError as error:
        raise _endpoint_error(error) from error
    except UnexpectedModelBehavior as error:
        raise ModelConfused(f"The model answered with what nobody can read: {str(error)[:200]}") from error
    return Said(output=said, answers=talk.answers)


_askers: WeakKeyDictionary[StepScope, Asker] = WeakKeyDictionary()


@contextmanager
def _asking(scope: StepScope) -> Iterator[Asker]:
    """Who asks for a step: one for all of its conversations, so that equal questions of several are told apart.

    What fails may be tried again from the step's beginning, and is then counted from the beginning.
    """
    context = scope.context
    if scope not in _askers:
        _askers[scope] = Asker(
            principal=context.principal,
            run=context.run_id,
            step=context.step,
            attempt=context.attempt,
        )
    try:
        yield _askers[scope]
    except BaseException:
        _askers.pop(scope, None)
        raise


def _endpoint_error(error: ModelAPIError) -> NetraError:
    """The endpoint's error in our words. What it says itself is for the log: it may quote keys and prompts."""
    status = f" ({error.status_code})" if isinstance(error, ModelHTTPError) else ""
    log.warning("The model endpoint failed", kind=type(error).__name__, detail=error.message[:500])
    for kind, sentence in _REFUSALS.items():
        if isinstance(error, kind):
            return ModelRefused(sentence.format(model=error.model_name, status=status))
    if isinstance(error, ModelConnectionError):
        return ModelUnavailable("The model endpoint could not be reached, or did not finish its answer.")
    return ModelUnavailable(f"The model endpoint failed{status}.", retry_after=error.retry_after)


# --- The conversation ------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Conversation(Generic[T]):
    """The turns of one conversation, and what its tools share."""

    scope: StepScope
    output: type[T]
    offered: Mapping[str, Tool]
    check: Callable[[T], str | None] | None
    refuse: Refuse | None
    answers: list[ToolAnswer] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    complaints: int = 0
    said: T | None = None

    async def hold(self, ask: Callable[..., Awaitable[ModelResponse]], instructions: str, prompt: str) -> T:
        """Ask, and do what is answered, until the answer is the output.

        Raises:
            ModelConfused: it never is.
        """
        parameters = self._parameters(instructions)
        messages: list[ModelMessage] = [_request([UserPromptPart(prompt)], instructions)]
        for _ in range(TURNS):
            response = await ask(messages, parameters)
            reply = await self._reply(response)
            if self.said is not None:
                return self.said
            messages += [response, _request(reply, instructions)]
        raise ModelConfused(f"The model did not finish within {TURNS} answers.")

    def hear(self, response: ModelResponse) -> None:
        """Tell the thoughts of an answer, in the transaction that keeps it, which only a live attempt may.

        Raises:
            Fenced: the step is not held any more.
        """
        thoughts = [part.content for part in response.parts if isinstance(part, ThinkingPart)]
        pieces = [
            thought[at : at + THOUGHT_LENGTH] for thought in thoughts for at in range(0, len(thought), THOUGHT_LENGTH)
        ]
        told = [{"thought": piece, "progress": self._progress()} for piece in pieces[:THOUGHTS]]
        facts = [Fact("agent_thinking", said) for said in told]
        fence = self.scope.context.fence
        with transaction.atomic(savepoint=False):
            journal.append(fence, *facts) if facts else journal.hold(fence)

    def _progress(self) -> int:
        """Percent of the offered tools that have answered: known, never falling, and 0 where none is offered."""
        answered = {answer.tool for answer in self.answers if answer.status != "refused"}
        return round(100 * len(answered) / len(self.offered)) if self.offered else 0

    def _parameters(self, instructions: str) -> ModelRequestParameters:
        tools = [_offer(tool) for tool in self.offered.values()]
        told = [InstructionPart(content=instructions)]
        if issubclass(self.output, str):
            return ModelRequestParameters(function_tools=tools, instruction_parts=told)
        return ModelRequestParameters(
            function_tools=tools,
            output_mode="tool",
            output_tools=[_output_tool(self.output)],
            allow_text_output=False,
            instruction_parts=told,
        )

    async def _reply(self, response: ModelResponse) -> list[ModelRequestPart]:
        """What the model gets back: results of the tools that it called, or a complaint, unless it has `said` all.

        Raises:
            ModelRefused, ModelConfused: there is nothing to say to that.
        """
        calls = response.tool_calls
        typed = not issubclass(self.output, str)
        if typed and (final := next((call for call in calls if call.tool_name == OUTPUT_TOOL), None)):
            complaint = self._finish(final.args)
            rest = {call.tool_call_id: "Not called: hand in the result by itself, last of all." for call in calls}
            said = rest | {final.tool_call_id: complaint}
            return [ToolReturnPart(call.tool_name, said[call.tool_call_id], call.tool_call_id) for call in calls]
        if calls:
            return await self._call_all(calls)
        if response.finish_reason == "content_filter":
            raise ModelRefused("The model endpoint's content filter stopped the answer. Check what is asked for.")
        return [UserPromptPart(self._finish(response.text))]

    def _finish(self, given: Any) -> str:
        """Take on what was given as the output, or answer a complaint about it.

        Raises:
            ModelConfused: there were too many.
        """
        try:
            said = _output_in(self.output, given)
        except _Unusable as error:
            complaint: str | None = str(error)
        else:
            complaint = self.check(said) if self.check else None
        if complaint is None:
            self.said = said
            return ""
        self.complaints += 1
        if self.complaints > MENDS:
            raise ModelConfused(f"The model did not finish its task: {complaint[:200]}")
        return complaint

    # --- Tools -------------------------------------------------------------------------------------------------------

    async def _call_all(self, calls: Sequence[ToolCallPart]) -> list[ModelRequestPart]:
        """Results in the order of the calls. When one cannot go on, the others are not cut off for it.

        Raises:
            Exception: what stopped a call; one that waits is told only where nothing worse has happened.
        """
        settled = await asyncio.gather(*(self._call(call) for call in calls), return_exceptions=True)
        errors = [result for result in settled if isinstance(result, BaseException)]
        if errors:
            raise min(errors, key=lambda error: isinstance(error, Interruption))
        return [
            ToolReturnPart(call.tool_name, result, call.tool_call_id)
            for call, result in zip(calls, settled, strict=True)
        ]

    async def _call(self, part: ToolCallPart) -> dict[str, Any]:
        tool, arguments = part.tool_name, _arguments(part.args)
        if tool not in self.offered:
            return _refused(f"There is no tool {tool!r}; there are: {', '.join(self.offered) or 'none'}.")
        if arguments is None:
            return _refused("The arguments are not a JSON object.")
        if self.refuse is not None and (reason := self.refuse(arguments)):
            return _refused(reason)
        answer = await self.scope.tools.execute_tool(tool, arguments, call=self._name(tool, arguments))
        self.answers.append(answer)
        return {"status": answer.status, "result": answer.result, "detail": answer.detail}

    def _name(self, tool: str, arguments: Mapping[str, Any]) -> str:
        """The call's name in the journal, out of what is asked and how often it was asked before.

        A provider's own ids may be long or used twice. This one is the same in a later attempt of the step, in
        whichever order parallel calls arrive, so that their results are found again.
        """
        canonical = json.dumps(arguments, sort_keys=True, default=str)
        name = f"{tool}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"
        self.calls[name] += 1
        return name if self.calls[name] == 1 else f"{name}-{self.calls[name]}"


def _request(parts: Sequence[ModelRequestPart], instructions: str) -> ModelRequest:
    return ModelRequest(parts=parts, instructions=instructions)


@lru_cache(maxsize=256)
def _offer(tool: Tool) -> ToolDefinition:
    schema = tool.arguments.model_json_schema()
    return ToolDefinition(name=tool.name, description=tool.description, parameters_json_schema=schema)


@lru_cache(maxsize=256)
def _output_tool(output: type[BaseModel]) -> ToolDefinition:
    said = "The result, which ends the conversation."
    return ToolDefinition(name=OUTPUT_TOOL, description=said, parameters_json_schema=output.model_json_schema())


class _Unusable(Exception):
    """What was handed in is no output; says why."""


def _output_in(output: type[Any], given: Any) -> Any:
    """What was given, as the output.

    Raises:
        _Unusable: it is none.
    """
    if given is None or given == "":
        raise _Unusable("Answer in words." if issubclass(output, str) else f"Answer by calling {OUTPUT_TOOL}.")
    if issubclass(output, str):
        return given
    try:
        return output.model_validate_json(given) if isinstance(given, str) else output.model_validate(given)
    except ValidationError as error:
        raise _Unusable(error.json(include_url=False, include_context=False, include_input=False)) from error


def _arguments(given: str | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The arguments of a call; None where they are no JSON object."""
    try:
        found = json.loads(given or "{}") if isinstance(given, str) else dict(given or {})
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _refused(detail: str) -> dict[str, Any]:
    return {"status": "refused", "result": None, "detail": detail}
