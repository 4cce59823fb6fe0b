"""TensorZero `ModelInference`, alone or joined with the columns of `ChatInference` and its feedback.

Source of the field names: `docs/gateway/data-model.mdx` of TensorZero.
"""

from apps.optimization.importers import Importer, decided_by, fields_at, importer, offered
from apps.optimization.texts import Texts

_TELLING = {"inference_id", "model_name", "model_provider_name", "input_tokens", "output_tokens"}
_PLACES: dict[str, tuple[str, ...]] = {
    "call_id": ("id",),
    "trace_id": ("inference_id",),
    "model": ("model_name",),
    "provider": ("model_provider_name",),
    "input_tokens": ("input_tokens",),
    "cached_read_tokens": (
        "usage/cache_read_input_tokens",
        "usage/prompt_tokens_details/cached_tokens",
        "usage/input_tokens_details/cached_tokens",
    ),
    "cached_write_tokens": ("usage/cache_creation_input_tokens",),
    "cached_write_1h_tokens": ("usage/cache_creation/ephemeral_1h_input_tokens",),
    "output_tokens": ("output_tokens",),
    "reasoning_tokens": ("usage/completion_tokens_details/reasoning_tokens",),
    "recorded_cost": ("cost",),
    "latency_ms": ("response_time_ms",),
    "finish_reason": ("finish_reason",),
    "feature": ("function_name",),
    "session": ("episode_id",),
    "cached_answer": ("cached",),
    "temperature": ("asked/temperature",),
    "max_output_tokens": ("asked/max_tokens", "asked/max_completion_tokens"),
    "quality": ("value",),
    "prompt": ("input_messages", "input"),
    "answer": ("output",),
}
# What a function offers at the call; what its configuration offers stands in the request to the provider.
_TOOLS = ("tool_params/tools_available", "dynamic_tools", "dynamic_provider_tools")
_DECIDES = (
    "tool_params",
    "dynamic_tools",
    "dynamic_provider_tools",
    "allowed_tools",
    "tool_choice",
    "parallel_tool_calls",
    "output_schema",
)


@importer(order=40)
def tensorzero(texts: Texts) -> Importer | None:
    """Takes inferences of models, told by the names of model and provider."""
    if not set(texts.columns) >= _TELLING:
        return None
    texts.derive("answer", "raw_response")
    texts.derive("asked", "raw_request", "inference_params/chat_completion")
    usage = {
        field: tuple(place.replace("usage/", "answer/usage/") for place in places) for field, places in _PLACES.items()
    }
    columns, sql = fields_at(texts, usage, system=("system",))
    # The row is written when the answer is there, so a call began its own time earlier.
    written, took = texts.first("timestamp", "created_at"), texts.at("response_time_ms")
    at = f"try_cast({written} AS TIMESTAMPTZ)::TIMESTAMP"
    began = f"({at} - to_milliseconds(coalesce(try_cast({took} AS BIGINT), 0)))"
    first = f"{began} + to_milliseconds(try_cast({texts.at('ttft_ms')} AS BIGINT))"
    return Importer(
        kind="tensorzero",
        documented=None,
        columns=columns | {"started_at": "timestamp, response_time_ms", "ended_at": "timestamp"},
        sql=sql
        | {
            "started_at": f"({began})::VARCHAR",
            "ended_at": f"({at})::VARCHAR",
            "first_token_at": f"({first})::VARCHAR",
            "parameters": decided_by(texts, "asked", *_DECIDES),
            "tools": offered(texts, *_TOOLS, "asked/tools", "asked/functions", body="asked"),
        },
        notes=("TensorZero: a call began its response time before its row was written.",),
    )
