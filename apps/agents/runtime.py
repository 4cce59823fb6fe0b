"""A conversation of one agent with its model, inside one step.

Imported inside a run only: it loads the agent library.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import structlog
from pydantic_ai import Agent, CallToolsNode, ModelRetry, Tool
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
    UsageLimitExceeded,
)
from pydantic_ai.messages import ThinkingPart
from pydantic_ai.models import Model
from pydantic_ai.usage import UsageLimits

from apps.conversations import journal
from apps.errors import NetraError
from apps.execution.calls import ToolAnswer
from apps.execution.registry import Interruption, postponed
from apps.execution.registry import Tool as DeclaredTool
from apps.execution.scope import StepScope
from apps.llm.gateway import model_for
from apps.llm.ledger import Asker
from apps.resilience.breaker import BreakerOpen

log = structlog.get_logger(__name__)

T = TypeVar("T")
Refuse = Callable[[Mapping[str, Any]], str | None]

TURNS = 12  # answers of the model in one step
THOUGHT_LENGTH = 280  # characters; shorter thoughts are joined


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
    output: type[T] | Any,
    offline: Model,
    check: Callable[[Any], str | None] | None = None,
    tools: Sequence[str] = (),
    refuse: Refuse | None = None,
) -> Said[T]:
    """Let the model think, call those of the step's tools that are named, and answer with `output`.

    `check(output)` may answer a complaint; the model is then asked to mend it, twice. `refuse(arguments)` may answer
    why a tool is not called with them; the model gets that instead of a result.

    Raises:
        ModelUnavailable, ModelRefused, ModelConfused: the model failed.
        Interruption: the endpoint keeps failing; the step waits until it is tried again.
        Fenced: the step is not held any more.
    """
    said: Said[T] = Said(output=None)  # type: ignore[arg-type]
    offered = [tool for tool in scope.tools.get_available_tools() if tool.name in tools]
    desk = _Desk(scope=scope, answers=said.answers, planned=len(offered), refuse=refuse)
    agent: Agent[None, T] = Agent(
        instructions=instructions, output_type=output, tools=[_tool(desk, tool) for tool in offered], retries=2
    )
    if check is not None:
        agent.output_validator(_complaining(check))
    try:
        with _asking(scope) as asker:
            said.output = await _listen(agent, await model_for(asker, offline=offline), prompt, desk)
    except BreakerOpen as refusal:
        raise Interruption(postponed(refusal)) from refusal
    except ModelAPIError as error:
        raise _endpoint_error(error) from error
    except (UnexpectedModelBehavior, UsageLimitExceeded) as error:
        raise ModelConfused(f"The model did not finish its task: {str(error)[:200]}") from error
    return said


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
            hold=lambda: journal.hold(context.fence),
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


async def _listen(agent: "Agent[None, T]", model: Model, prompt: str, desk: "_Desk") -> T:
    """Run the conversation and pass its thoughts on."""
    async with agent.iter(prompt, model=model, usage_limits=UsageLimits(request_limit=TURNS)) as turns:
        async for turn in turns:
            if isinstance(turn, CallToolsNode):
                for part in turn.model_response.parts:
                    if isinstance(part, ThinkingPart) and part.content:
                        await _think(desk, part.content)
    if turns.result is None:
        raise ModelConfused("The model ended without an answer.")
    return turns.result.output


async def _think(desk: "_Desk", thought: str) -> None:
    for start in range(0, len(thought), THOUGHT_LENGTH):
        await desk.scope.think(thought[start : start + THOUGHT_LENGTH], progress=desk.progress())


@dataclass(kw_only=True)
class _Desk:
    """What the tools of one conversation share."""

    scope: StepScope
    answers: list[ToolAnswer]
    planned: int
    refuse: Refuse | None
    calls: Counter[str] = field(default_factory=Counter)

    def progress(self) -> int:
        """Percent of the offered tools that have answered: known, never falling, and 0 where none is offered."""
        answered = {answer.tool for answer in self.answers if answer.status != "refused"}
        return round(100 * len(answered) / self.planned) if self.planned else 0

    def name(self, tool: str, arguments: Mapping[str, Any]) -> str:
        """The call's name in the journal, out of what is asked and how often it was asked before.

        A provider's own ids may be long or used twice. This one is the same in a later attempt of the step, in
        whichever order parallel calls arrive, so that their results are found again.
        """
        canonical = json.dumps(arguments, sort_keys=True, default=str)
        name = f"{tool}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"
        self.calls[name] += 1
        return name if self.calls[name] == 1 else f"{name}-{self.calls[name]}"


def _tool(desk: _Desk, declared: DeclaredTool) -> Tool[None]:
    async def call(**arguments: Any) -> dict[str, Any]:
        if desk.refuse is not None and (reason := desk.refuse(arguments)):
            return {"status": "refused", "result": None, "detail": reason}
        name = desk.name(declared.name, arguments)
        answer = await desk.scope.tools.execute_tool(declared.name, arguments, call=name)
        desk.answers.append(answer)
        if answer.code == "tool.arguments_invalid":
            raise ModelRetry(answer.detail)
        return {"status": answer.status, "result": answer.result, "detail": answer.detail}

    return Tool.from_schema(
        call,
        name=declared.name,
        description=declared.description,
        json_schema=declared.arguments.model_json_schema(),
    )


def _complaining(check: Callable[[Any], str | None]) -> Any:
    def validate(output: Any) -> Any:
        complaint = check(output)
        if complaint:
            raise ModelRetry(complaint)
        return output

    return validate
