"""LiteLLM: `LiteLLM_SpendLogs`, a row per request of the proxy, and the `StandardLoggingPayload` of its callbacks.

Source of the field names: `schema.prisma`, `SpendLogsMetadata` and `types/utils.py` of litellm 1.109. `prompt_tokens`
includes cached tokens (BerriAI/litellm#15945); `cache_hit` is LiteLLM's own response cache (#11364).
"""

from apps.optimization.importers import Importer, decided_by, fields_at, importer, offered
from apps.optimization.texts import Texts

SPEND_LOG = {"request_id", "call_type", "startTime", "prompt_tokens", "completion_tokens", "spend"}
PAYLOAD = {"call_type", "response_cost", "startTime", "prompt_tokens", "completion_tokens"}
_USAGE = ("metadata/usage_object", "metadata/additional_usage_values", "response/usage")
_REQUEST = ("proxy_server_request/body", "proxy_server_request", "model_parameters")
_PLACES: dict[str, tuple[str, ...]] = {
    "call_id": ("request_id", "id"),
    "trace_id": ("trace_id", "litellm_call_id"),
    "started_at": ("startTime",),
    "ended_at": ("endTime",),
    "first_token_at": ("completionStartTime",),
    "model": ("model",),
    "provider": ("custom_llm_provider",),
    "input_tokens": ("prompt_tokens",),
    "output_tokens": ("completion_tokens",),
    "cached_read_tokens": (
        "usage/cache_read_input_tokens",
        "usage/prompt_tokens_details/cached_tokens",
    ),
    "cached_write_tokens": (
        "usage/cache_creation_input_tokens",
        "usage/prompt_tokens_details/cache_creation_tokens",
    ),
    "cached_write_1h_tokens": (
        "usage/cache_creation/ephemeral_1h_input_tokens",
        "usage/prompt_tokens_details/cache_creation_token_details/ephemeral_1h_input_tokens",
    ),
    "reasoning_tokens": ("usage/completion_tokens_details/reasoning_tokens",),
    "input_audio_tokens": ("usage/prompt_tokens_details/audio_tokens",),
    "output_audio_tokens": ("usage/completion_tokens_details/audio_tokens",),
    "service_tier": ("cost_breakdown/service_tier", "usage/service_tier", "request/service_tier"),
    "recorded_cost": ("spend", "response_cost"),
    "status": ("status", "metadata/status"),
    "error": ("error_information/error_class", "metadata/error_information/error_class", "error_str"),
    "finish_reason": ("response/choices/0/finish_reason",),
    "user": ("end_user", "user", "metadata/user_api_key_user_id"),
    "feature": ("request_tags/0", "metadata/user_api_key_alias"),
    "session": ("session_id",),
    "api_key": ("metadata/user_api_key_alias", "metadata/user_api_key_hash", "api_key"),
    "temperature": ("request/temperature",),
    "max_output_tokens": (
        "request/max_tokens",
        "request/max_completion_tokens",
    ),
    "stream": ("stream", "request/stream"),
    "prompt": ("messages", "request/messages"),
    "answer": ("response/choices/0/message/content", "response/choices/0/text"),
    "cached_answer": ("cache_hit",),
}


@importer(order=10)
def litellm(texts: Texts) -> Importer | None:
    """Takes a table with the columns that make a spend log."""
    if not any(set(texts.columns) >= columns for columns in (SPEND_LOG, PAYLOAD)):
        return None
    texts.derive("usage", *_USAGE)
    texts.derive("request", *_REQUEST)
    # Beside the messages, as Anthropic's API has it and OpenAI's Responses.
    columns, sql = fields_at(texts, _PLACES, system=("request/system", "request/instructions"))
    return Importer(
        kind="litellm",
        documented="inclusive",
        columns=columns,
        sql=sql
        | {
            "parameters": decided_by(texts, "request"),
            "tools": offered(texts, "request/tools", "request/functions", body="request"),
        },
        notes=(
            "LiteLLM: prompt_tokens counts cached tokens; they are priced apart where the usage object gives them.",
            "LiteLLM: rows with cache_hit were answered by LiteLLM's own cache and cost nothing.",
        ),
    )
