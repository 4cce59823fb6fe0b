"""The offline planner: a model that follows a script, so that the house answers without any key.

It goes through the very same loop as a real model (thoughts, tool calls, typed output); only who decides differs.
A script sees the results of its tool calls so far and says the next turn.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel

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

    def respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        answered = sum(
            isinstance(part, ToolReturnPart)
            for message in messages
            if isinstance(message, ModelRequest)
            for part in message.parts
        )
        turn = script(answered)
        return ModelResponse(parts=[ThinkingPart(turn.thought), *_said(turn, info, answered)])

    return FunctionModel(respond, model_name=NAME)


def _said(turn: Turn, info: AgentInfo, answered: int) -> Iterator[TextPart | ToolCallPart]:
    if isinstance(turn.output, str):
        yield TextPart(turn.output)
    elif turn.output is not None:
        yield ToolCallPart(info.output_tools[0].name, turn.output.model_dump_json(), tool_call_id="output")
    else:
        for number, call in enumerate(turn.calls, answered + 1):
            yield ToolCallPart(call.tool, json.dumps(dict(call.arguments)), tool_call_id=f"{number}-{call.tool}")
