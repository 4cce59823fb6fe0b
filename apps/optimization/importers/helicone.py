"""Helicone requests, as its ClickHouse table and its exports name them.

Source of the field names: `RequestResponseRMT` in `ClickhouseWrapper.ts` of Helicone, and `HeliconeRequest`, which its
exports write. The recorded `cost` may be scaled
by a factor that the export does not tell, so it is left alone and costs are computed.
"""

from apps.optimization.importers import Importer, decided_by, fields_at, importer, offered
from apps.optimization.texts import Texts

_TELLING = {"request_id", "request_created_at", "prompt_tokens", "completion_tokens"}
_PLACES: dict[str, tuple[str, ...]] = {
    "call_id": ("request_id",),
    "started_at": ("request_created_at",),
    "ended_at": ("response_created_at",),
    "latency_ms": ("latency", "delay_ms"),
    "model": ("model", "model_override", "response_model", "request_model"),
    "provider": ("provider",),
    "input_tokens": ("prompt_tokens",),
    "cached_read_tokens": ("prompt_cache_read_tokens",),
    "cached_write_tokens": ("prompt_cache_write_tokens",),
    "output_tokens": ("completion_tokens",),
    "input_audio_tokens": ("prompt_audio_tokens",),
    "output_audio_tokens": ("completion_audio_tokens",),
    "reasoning_tokens": ("answer/usage/completion_tokens_details/reasoning_tokens",),
    "status": ("status", "response_status"),
    "finish_reason": ("answer/choices/0/finish_reason", "answer/stop_reason"),
    "user": ("user_id", "request_user_id"),
    "feature": ("tags/Feature", "tags/feature", "tags/App", "tags/Helicone-Session-Name"),
    "session": ("tags/Helicone-Session-Id",),
    "api_key": ("proxy_key_id",),
    "temperature": ("asked/temperature",),
    "max_output_tokens": ("asked/max_tokens", "asked/max_completion_tokens"),
    "stream": ("asked/stream",),
    "service_tier": ("answer/service_tier", "asked/service_tier"),
    "quality": ("scores/quality", "scores/correctness"),
    "prompt": ("asked/messages", "asked/input", "asked/prompt"),
    "answer": ("answer/choices/0/message/content", "answer/content", "answer/output"),
}


@importer(order=30)
def helicone(texts: Texts) -> Importer | None:
    """Takes requests, told by the names of their times."""
    if not set(texts.columns) >= _TELLING:
        return None
    texts.derive("asked", "request_body")
    texts.derive("answer", "response_body")
    texts.derive("tags", "properties", "request_properties")
    columns, sql = fields_at(texts, _PLACES, system=("asked/system", "asked/instructions"))
    started, wait = texts.at("request_created_at"), texts.at("time_to_first_token")
    hit = (
        f"({texts.first('cache_reference_id')}) IS DISTINCT FROM NULL AND {texts.at('cache_reference_id')} <> {_NO_HIT}"
    )
    return Importer(
        kind="helicone",
        documented=None,
        columns=columns | {"first_token_at": "time_to_first_token", "cached_answer": "cache_reference_id"},
        sql=sql
        | {
            "first_token_at": f"(try_cast({started} AS TIMESTAMPTZ)::TIMESTAMP + to_milliseconds("
            f"try_cast({wait} AS BIGINT)))::VARCHAR",
            "cached_answer": f"({hit})::VARCHAR",
            "parameters": decided_by(texts, "asked"),
            "tools": offered(texts, "asked/tools", "asked/functions", body="asked"),
        },
        notes=(
            "Helicone: the recorded cost may be scaled, so costs are computed from tokens.",
            "Helicone: requests that its cache answered were never billed.",
        ),
    )


_NO_HIT = "'00000000-0000-0000-0000-000000000000'"
