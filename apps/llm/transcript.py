"""What is asked of a model and what it answers, in forms that outlast the process. It loads the agent library."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.tools import ToolDefinition

# What the library stamps on messages and their parts, anew in each attempt.
_STAMPS = frozenset({"timestamp", "run_id", "conversation_id"})

_RESPONSE = TypeAdapter(ModelResponse)
_TOOLS = TypeAdapter(list[ToolDefinition])


def digest(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> str:
    """A name for what is asked (messages, tools, form of the output): the same for the same question."""
    asked = {
        "messages": [
            _lasting(message) for message in ModelMessagesTypeAdapter.dump_python(list(messages), mode="json")
        ],
        "tools": _TOOLS.dump_python([*parameters.function_tools, *parameters.output_tools], mode="json"),
        "output": parameters.output_mode,
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()


def _lasting(message: Mapping[str, Any]) -> dict[str, Any]:
    return _unstamped(message) | {"parts": [_unstamped(part) for part in message["parts"]]}


def _unstamped(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in _STAMPS}


def dump(response: ModelResponse) -> str:
    """The response as JSON."""
    text = json.dumps(_RESPONSE.dump_python(response, mode="json"), ensure_ascii=False)
    # A stream may be cut within a character: the halves are joined again, and one that is alone is replaced.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def load(answer: str) -> ModelResponse:
    """The response that `dump` wrote."""
    return _RESPONSE.validate_json(answer)
