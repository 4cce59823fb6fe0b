"""LiteLLM's `LiteLLM_SpendLogs`: one row per request of the proxy, with JSON inside some columns.

Source of the field names: `schema.prisma` and `SpendLogsMetadata` of litellm 1.109. `prompt_tokens` includes cached
tokens (BerriAI/litellm#15945); `cache_hit` is LiteLLM's own response cache, not the provider's (#11364).
"""

import json
from collections.abc import Mapping
from typing import Any

from apps.optimization.importers import FIELDS, Convention, importer
from apps.optimization.readers import Row

TELLING = {"request_id", "call_type", "startTime", "prompt_tokens", "completion_tokens", "spend"}
_PLAIN = {
    "call_id": "request_id",
    "started_at": "startTime",
    "ended_at": "endTime",
    "first_token_at": "completionStartTime",
    "model": "model",
    "provider": "custom_llm_provider",
    "input_tokens": "prompt_tokens",
    "output_tokens": "completion_tokens",
    "recorded_cost": "spend",
    "session": "session_id",
    "cached_answer": "cache_hit",
}
_INSIDE = {
    "cached_read_tokens": "metadata.usage_object",
    "cached_write_tokens": "metadata.usage_object",
    "cached_write_1h_tokens": "metadata.usage_object",
    "status": "status, metadata.status",
    "user": "end_user, user, metadata.user_api_key_user_id",
    "feature": "request_tags, metadata.user_api_key_alias",
    "temperature": "proxy_server_request",
    "parameters": "proxy_server_request",
    "prompt": "messages, proxy_server_request",
}
# What of a request decides the answer, besides the model and the messages.
_DECIDES = ("temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "stop", "tools", "response_format")


@importer(order=10)
def litellm(columns: tuple[str, ...], mapping: Mapping[str, str | None]) -> "LiteLLMImporter | None":
    """Takes a table with the columns that make a spend log; an own mapping says that it is something else."""
    return LiteLLMImporter() if set(columns) >= TELLING and not mapping else None


class LiteLLMImporter:
    """Fields from columns and from the JSON inside them."""

    kind = "litellm"
    documented: Convention | None = "inclusive"
    notes = (
        "LiteLLM: prompt_tokens counts cached tokens; they are priced apart where metadata.usage_object gives them.",
        "LiteLLM: rows with cache_hit were answered by LiteLLM's own cache and cost nothing.",
    )
    columns: Mapping[str, str] = _PLAIN | _INSIDE

    def values(self, row: Row) -> list[str | None]:
        metadata, request = _inner(row.get("metadata")), _inner(row.get("proxy_server_request"))
        call = {field: row.get(column) for field, column in _PLAIN.items()}
        call |= _cached(metadata)
        call |= _sender(row, metadata)
        call |= _request(row, request)
        return [call.get(field) for field in FIELDS]


def _cached(metadata: dict[str, Any]) -> dict[str, str | None]:
    usage = _inner(metadata.get("usage_object")) or _inner(metadata.get("additional_usage_values"))
    details = _inner(usage.get("prompt_tokens_details"))
    written = _inner(details.get("cache_creation_token_details")) or _inner(usage.get("cache_creation"))
    return {
        "cached_read_tokens": _first(usage.get("cache_read_input_tokens"), details.get("cached_tokens")),
        "cached_write_tokens": _first(usage.get("cache_creation_input_tokens"), details.get("cache_creation_tokens")),
        "cached_write_1h_tokens": _first(written.get("ephemeral_1h_input_tokens")),
    }


def _sender(row: Row, metadata: dict[str, Any]) -> dict[str, str | None]:
    return {
        "status": _first(row.get("status"), metadata.get("status")),
        "user": _first(row.get("end_user"), row.get("user"), metadata.get("user_api_key_user_id")),
        "feature": _first(*_listed(row.get("request_tags"))[:1], metadata.get("user_api_key_alias")),
    }


def _request(row: Row, request: dict[str, Any]) -> dict[str, str | None]:
    messages = row.get("messages") if _said(row.get("messages")) else request.get("messages")
    decides = {name: request[name] for name in _DECIDES if request.get(name) is not None}
    return {
        "prompt": _first(messages),
        "temperature": _first(request.get("temperature")),
        "parameters": json.dumps(decides, sort_keys=True) if decides else None,
    }


def _said(text: str | None) -> bool:
    """Whether stored messages hold anything: LiteLLM writes `{}` unless told to keep prompts."""
    return bool(text) and text not in ("{}", "[]", '""', "null")


def _inner(value: Any) -> dict[str, Any]:
    """The object in a value that may be one, or JSON text of one; empty where it is neither."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def _listed(text: str | None) -> list[Any]:
    try:
        found = json.loads(text) if text and text.startswith("[") else []
    except (ValueError, RecursionError):
        return []
    return found if isinstance(found, list) else []


def _first(*values: Any) -> str | None:
    """The first value that says something, as text."""
    for value in values:
        if value is not None and value != "":
            return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return None
