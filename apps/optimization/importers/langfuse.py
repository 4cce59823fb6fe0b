"""Langfuse observations: exports of the page (CSV, JSON, JSON lines) and of the blob storage, in both spellings.

Source of the field names: `observation-field-groups.ts`, `commons.yml` and `blob-storage-integrations.yml` of Langfuse.
`input` is meant to leave cached tokens out; integrations differ (langfuse#5568, #10592, #12306), so the calls decide.
"""

from apps.optimization.importers import Importer, fields_at, importer, offered, together
from apps.optimization.texts import NOTHING, Texts

_TELLING = ({"traceId", "startTime", "usageDetails"}, {"trace_id", "start_time", "usage_details"})
_TOOLS = ("tool_definitions", "toolDefinitions")
_PLACES: dict[str, tuple[str, ...]] = {
    "call_id": ("id",),
    "trace_id": ("trace_id", "traceId"),
    "span_id": ("id",),
    "parent_id": ("parent_observation_id", "parentObservationId"),
    "started_at": ("start_time", "startTime"),
    "ended_at": ("end_time", "endTime"),
    "first_token_at": ("completion_start_time", "completionStartTime"),
    "model": ("provided_model_name", "providedModelName", "model", "internal_model_id", "internalModelId"),
    "input_tokens": ("usage/input", "usage/prompt_tokens", "usage/input_tokens"),
    "cached_read_tokens": (
        "usage/cache_read_input_tokens",
        "usage/input_cache_read",
        "usage/input_cached_tokens",
        "usage/cached_tokens",
    ),
    "cached_write_1h_tokens": ("usage/input_cache_creation_1h", "usage/cache_creation_1h_input_tokens"),
    "reasoning_tokens": ("usage/output_reasoning_tokens", "usage/output_reasoning", "usage/reasoning_tokens"),
    "input_audio_tokens": ("usage/input_audio_tokens",),
    "output_audio_tokens": ("usage/output_audio_tokens",),
    "recorded_cost": ("total_cost", "totalCost", "cost/total"),
    "error": ("status_message", "statusMessage"),
    "user": ("user_id", "userId"),
    "feature": ("trace_name", "traceName", "prompt_name", "promptName", "name"),
    "session": ("session_id", "sessionId"),
    "temperature": ("parameters/temperature",),
    "max_output_tokens": ("parameters/max_tokens", "parameters/max_completion_tokens"),
    "stream": ("parameters/stream",),
    "service_tier": ("parameters/service_tier",),
    "quality": ("scores/quality", "scores/correctness"),
    # Tools that stand in the input are told apart as a part of the prompt.
    "parameters": ("model_parameters", "modelParameters", *_TOOLS),
    "prompt": ("input",),
    "answer": ("output/content", "output"),
}


@importer(order=20)
def langfuse(texts: Texts) -> Importer | None:
    """Takes observations, told by the map of usage beside the trace."""
    if not any(set(texts.columns) >= columns for columns in _TELLING):
        return None
    texts.derive("usage", "usage_details", "usageDetails")
    texts.derive("cost", "cost_details", "costDetails")
    texts.derive("parameters", "model_parameters", "modelParameters")
    columns, sql = fields_at(texts, _PLACES)
    kind, level = texts.first("type"), texts.first("level")
    parameters = texts.first_untouched("model_parameters", "modelParameters")
    return Importer(
        kind="langfuse",
        documented="exclusive",
        columns=columns | {"output_tokens": "usage.output", "status": "level", "cached_write_tokens": "usage"},
        sql=sql
        | {
            "output_tokens": _output(texts),
            "cached_write_tokens": _written(texts),
            "parameters": together([parameters, texts.first_untouched(*_TOOLS)]),
            "tools": offered(texts, *_TOOLS, "parameters/tools", "parameters/functions", "input/tools"),
            "status": f"CASE upper({level}) WHEN 'ERROR' THEN 'failed' ELSE 'succeeded' END",
        },
        is_call="true" if kind == NOTHING else f"upper({kind}) IN ('GENERATION', 'EMBEDDING')",
        notes=("Langfuse: generations and embeddings are calls; spans and events around them are not.",),
    )


def _output(texts: Texts) -> str:
    """All output. Where the total says so, `output` leaves reasoning out and it is added."""
    output = texts.first("usage/output", "usage/completion_tokens", "usage/output_tokens")
    reasoning = texts.first(*_PLACES["reasoning_tokens"])
    parts = [output, reasoning, texts.first("usage/input", "usage/prompt_tokens", "usage/input_tokens")]
    said, thought, read = (f"try_cast({part} AS BIGINT)" for part in parts)
    total = f"try_cast({texts.first('usage/total', 'usage/total_tokens')} AS BIGINT)"
    apart = f"coalesce({total} >= {said} + {thought} + coalesce({read}, 0), {thought} > {said})"
    return f"CASE WHEN {apart} THEN ({said} + {thought})::VARCHAR ELSE {output} END"


def _written(texts: Texts) -> str:
    """All tokens written to the provider's cache; by duration they are parts, else one number."""
    whole = texts.first("usage/cache_creation_input_tokens", "usage/input_cache_creation")
    brief, hour = texts.first("usage/input_cache_creation_5m"), texts.first(*_PLACES["cached_write_1h_tokens"])
    parts = f"coalesce(try_cast({brief} AS BIGINT), 0) + coalesce(try_cast({hour} AS BIGINT), 0)"
    return f"coalesce({whole}, nullif({parts}, 0)::VARCHAR)"
