"""A conversation of one agent with its model, inside one step.

Imported inside a run only: it loads the agent library.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic_ai import Agent, ModelRetry, RunContext, Tool
from pydantic_ai.exceptions import ModelAPIError, UnexpectedModelBehavior, UsageLimitExceeded
from pydantic_ai.messages import PartEndEvent, ThinkingPart
from pydantic_ai.models import Model
from pydantic_ai.run import AgentRunResultEvent
from pydantic_ai.usage import UsageLimits

from apps.errors import NetraError
from apps.execution.dispatcher import ToolAnswer
from apps.execution.registry import Tool as DeclaredTool
from apps.execution.scope import StepScope
from apps.llm.gateway import Asker, model_for

T = TypeVar("T")

TURNS = 12  # answers of the model in one step
THOUGHT_LENGTH = 280  # characters; shorter thoughts are joined


class ModelUnavailable(NetraError):
    """The configured endpoint did not answer, or answered with an error."""

    code = "model.unavailable"
    status = 503
    retryable = True


class ModelConfused(NetraError):
    """The model did not do its part within the turns it has."""

    code = "model.confused"
    status = 502
    retryable = True


@dataclass(kw_only=True)
class Said(Generic[T]):
    """What came of a conversation: the typed output, and every tool answer behind it."""

    output: T
    answers: list[ToolAnswer] = field(default_factory=list)


async def converse(
    scope: StepScope, *, instructions: str, prompt: str, output: type[T] | Any, offline: Model, check: Any = None
) -> Said[T]:
    """Let the model think, call the step's tools and answer with `output`.

    `check(output)` may answer a complaint; the model is then asked to mend it, twice.

    Raises:
        ModelUnavailable, ModelConfused: the model failed.
        Fenced: the step is not held any more.
    """
    said: Said[T] = Said(output=None)  # type: ignore[arg-type]
    agent: Agent[None, T] = Agent(
        instructions=instructions, output_type=output, tools=_tools(scope, said.answers), retries=2
    )
    if check is not None:
        agent.output_validator(_complaining(check))
    asker = Asker(
        principal=scope.context.principal,
        run=scope.context.run_id,
        step=scope.context.step,
        attempt=scope.context.attempt,
    )
    try:
        async with model_for(asker, offline=offline) as model:
            said.output = await _listen(agent, model, prompt, scope, said.answers)
    except ModelAPIError as error:
        raise ModelUnavailable(f"The model endpoint failed: {error.message[:200]}") from error
    except (UnexpectedModelBehavior, UsageLimitExceeded) as error:
        raise ModelConfused(f"The model did not finish its task: {str(error)[:200]}") from error
    return said


async def _listen(
    agent: "Agent[None, T]", model: Model, prompt: str, scope: StepScope, answers: Sequence[ToolAnswer]
) -> T:
    """Run the conversation and pass its thoughts on."""
    async with agent.run_stream_events(prompt, model=model, usage_limits=UsageLimits(request_limit=TURNS)) as events:
        async for event in events:
            if isinstance(event, AgentRunResultEvent):
                return event.result.output
            if isinstance(event, PartEndEvent) and isinstance(event.part, ThinkingPart) and event.part.content:
                await _think(scope, event.part.content, answers)
    raise ModelConfused("The model ended without an answer.")


async def _think(scope: StepScope, thought: str, answers: Sequence[ToolAnswer]) -> None:
    """Progress is the share of the step's tools that have answered: known, not guessed."""
    tools = len(scope.tools.get_available_tools())
    progress = min(99, round(100 * len(answers) / tools)) if tools else 0
    for start in range(0, len(thought), THOUGHT_LENGTH):
        await scope.think(thought[start : start + THOUGHT_LENGTH], progress=progress)


def _tools(scope: StepScope, answers: list[ToolAnswer]) -> list[Tool[None]]:
    return [_tool(scope, tool, answers) for tool in scope.tools.get_available_tools()]


def _tool(scope: StepScope, declared: DeclaredTool, answers: list[ToolAnswer]) -> Tool[None]:
    async def call(ctx: RunContext[None], **arguments: Any) -> dict[str, Any]:
        answer = await scope.tools.execute_tool(declared.name, arguments, call=str(ctx.tool_call_id))
        answers.append(answer)
        if answer.code == "tool.arguments_invalid":
            raise ModelRetry(answer.detail)
        return {"status": answer.status, "result": answer.result, "detail": answer.detail}

    return Tool.from_schema(
        call,
        name=declared.name,
        description=declared.description,
        json_schema=declared.arguments.model_json_schema(),
        takes_ctx=True,
    )


def _complaining(check: Any) -> Any:
    def validate(output: Any) -> Any:
        complaint = check(output)
        if complaint:
            raise ModelRetry(complaint)
        return output

    return validate
