"""The offline planner: a model that follows a script, so that the house answers without any key.

It goes through the very same loop as a real model (streamed thoughts, tool calls, typed output); only who decides
differs. A script sees the results of its tool calls so far and says the next turn.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_ai.messages import ModelMessage, ModelRequest, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaThinkingCalls, DeltaThinkingPart, DeltaToolCall, FunctionModel

NAME = "offline planner"


@dataclass(frozen=True, kw_only=True)
class Call:
    """A tool to call."""

    tool: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What the planner says next: a thought, then either calls or the final output."""

    thought: str
    calls: Sequence[Call] = ()
    output: BaseModel | str | None = None


Script = Callable[[int], Turn]  # by the number of tool results so far


def planner(script: Script) -> FunctionModel:
    """The model that follows `script`."""

    async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        answered = sum(
            isinstance(part, ToolReturnPart)
            for message in messages
            if isinstance(message, ModelRequest)
            for part in message.parts
        )
        turn = script(answered)
        yield _thought(turn.thought)
        if isinstance(turn.output, str):
            yield turn.output
        elif turn.output is not None:
            yield {1: DeltaToolCall(info.output_tools[0].name, turn.output.model_dump_json(), tool_call_id="output")}
        else:
            for place, call in enumerate(turn.calls, start=1):
                number = answered + place
                arguments = json.dumps(dict(call.arguments))
                yield {place: DeltaToolCall(call.tool, arguments, tool_call_id=f"{number}-{call.tool}")}

    return FunctionModel(stream_function=stream, model_name=NAME)


def _thought(text: str) -> DeltaThinkingCalls:
    return {0: DeltaThinkingPart(content=text)}
