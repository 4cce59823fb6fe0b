"""OpenTelemetry spans of generative AI: OTLP as JSON, and tables whose columns are named like the attributes.

Source of the names: semantic conventions v1.41.1 `gen-ai-spans.md` and their older spellings, openllmetry
(`opentelemetry-semantic-conventions-ai` 0.5) and OpenLIT 1.45. Normative: `input_tokens` counts cached tokens and
`output_tokens` counts reasoning.
"""

from apps.optimization.importers import Importer, fields_at, importer, offered, together
from apps.optimization.texts import NOTHING, Texts

_USAGE = "gen_ai.usage."
_IN = (f"{_USAGE}input_tokens", f"{_USAGE}prompt_tokens", "llm.usage.prompt_tokens", "llm.token_count.prompt")
_OUT = (
    f"{_USAGE}output_tokens",
    f"{_USAGE}completion_tokens",
    "llm.usage.completion_tokens",
    "llm.token_count.completion",
)
_START, _END = ("startTimeUnixNano", "start_time_unix_nano"), ("endTimeUnixNano", "end_time_unix_nano")
_PLACES: dict[str, tuple[str, ...]] = {
    "call_id": ("gen_ai.response.id",),
    "trace_id": ("traceId", "trace_id"),
    "span_id": ("spanId", "span_id"),
    "parent_id": ("parentSpanId", "parent_span_id"),
    "started_at": (*_START, "start_time", "timestamp"),
    "ended_at": (*_END, "end_time"),
    "model": ("gen_ai.response.model", "gen_ai.request.model", "llm.model_name", "llm.request.model"),
    "provider": ("gen_ai.provider.name", "gen_ai.system", "llm.provider"),
    "input_tokens": _IN,
    "cached_read_tokens": (
        f"{_USAGE}cache_read.input_tokens",
        f"{_USAGE}cache_read_input_tokens",
        f"{_USAGE}prompt_tokens_details.cached_tokens",
        f"{_USAGE}prompt_tokens_details.cache_read",
        "llm.usage.cache_read_input_tokens",
        "llm.token_count.prompt_details.cache_read",
    ),
    "cached_write_tokens": (
        f"{_USAGE}cache_creation.input_tokens",
        f"{_USAGE}cache_creation_input_tokens",
        "llm.usage.cache_creation_input_tokens",
        "llm.token_count.prompt_details.cache_write",
    ),
    "output_tokens": _OUT,
    "reasoning_tokens": (
        f"{_USAGE}reasoning.output_tokens",
        f"{_USAGE}reasoning_tokens",
        f"{_USAGE}completion_tokens_details.reasoning_tokens",
    ),
    "recorded_cost": (f"{_USAGE}cost",),
    "error": ("error.type",),
    "finish_reason": ("gen_ai.response.finish_reasons/0", "gen_ai.response.finish_reasons"),
    "max_output_tokens": ("gen_ai.request.max_tokens",),
    "temperature": ("gen_ai.request.temperature",),
    "stream": ("gen_ai.request.stream", "llm.is_streaming", "gen_ai.request.is_stream"),
    "service_tier": (
        "openai.response.service_tier",
        "openai.request.service_tier",
        "gen_ai.openai.response.service_tier",
    ),
    "user": ("user.id", "enduser.id", "gen_ai.request.user", "llm.user"),
    "feature": ("gen_ai.workflow.name", "gen_ai.agent.name", "gen_ai.prompt.name", "service.name"),
    "session": ("gen_ai.conversation.id", "session.id"),
    "quality": ("gen_ai.evaluation.score.value",),
    "prompt": ("gen_ai.input.messages", "gen_ai.prompt", "gen_ai.content.prompt", "input.value"),
    "answer": ("gen_ai.output.messages", "gen_ai.completion", "gen_ai.content.completion", "output.value"),
}
# What of a request decides the answer, besides the model and the messages.
_DECIDES = (
    "temperature",
    "top_p",
    "top_k",
    "max_tokens",
    "seed",
    "stop_sequences",
    "frequency_penalty",
    "presence_penalty",
)
_TOOLS = "gen_ai.tool.definitions"


@importer(order=15)
def otel(texts: Texts) -> Importer | None:
    """Takes spans, told by the names of their token counts."""
    if not set(texts.columns) & {*_IN, *_OUT}:
        return None
    columns, sql = fields_at(texts, _PLACES, system=("gen_ai.system_instructions",))
    counted = [text for text in (texts.first(*_IN), texts.first(*_OUT)) if text != NOTHING]
    status, error = texts.first("status.code", "status"), texts.first("error.type")
    decides = [texts.at(name) for name in (*(f"gen_ai.request.{name}" for name in _DECIDES), _TOOLS)]
    return Importer(
        kind="otel",
        documented="inclusive",
        columns=columns
        | {"status": "status.code, error.type", "first_token_at": "gen_ai.response.time_to_first_chunk"},
        sql=sql
        | {
            "status": f"CASE WHEN {error} IS NOT NULL OR {status} IN ('2', 'STATUS_CODE_ERROR', 'ERROR') THEN 'failed' "
            "ELSE 'succeeded' END",
            "call_id": _call_id(texts),
            "first_token_at": _first_token(texts),
            "parameters": together(decides),
            "tools": offered(texts, _TOOLS),
        },
        is_call=f"coalesce({', '.join(counted)}) IS NOT NULL",
        notes=("OpenTelemetry: spans with token counts are calls; the spans around them are not.",),
    )


def _call_id(texts: Texts) -> str:
    """The id of the answer, else of the span: a span that was sent twice is one call."""
    trace, span = texts.first("traceId", "trace_id"), texts.first("spanId", "span_id")
    return f"coalesce({texts.first('gen_ai.response.id')}, {trace} || ':' || {span})"


def _first_token(texts: Texts) -> str:
    """Start plus the seconds to the first chunk, in nanoseconds since 1970."""
    start = f"try_cast({texts.first(*_START)} AS BIGINT)"
    waited = (
        f"try_cast({texts.first('gen_ai.response.time_to_first_chunk', 'gen_ai.server.time_to_first_token')} AS DOUBLE)"
    )
    return f"({start} + ({waited} * 1e9)::BIGINT)::VARCHAR"
