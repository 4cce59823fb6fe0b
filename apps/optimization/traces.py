"""OTLP over HTTP: the body of `POST /v1/traces` as spans, and the answers that the protocol asks for.

Source: the OTLP specification 1.x, "OTLP/HTTP", and the JSON mapping of `opentelemetry/proto/trace/v1`: 64-bit numbers
are strings and ids are hex, where protobuf's own mapping would write base64.
"""

import base64
import json
import zlib
from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from apps.errors import Invalid, NetraError

JSON, PROTOBUF = "application/json", "application/x-protobuf"
MOST_BYTES = 8 * 1024**2  # of one body, packed or unpacked
_TOKENS = ("tokens", "token_count", "usage")


class UnreadableTraces(Invalid):
    """The body is no OTLP request."""

    code = "traces.unreadable"
    status = 400


class UnknownFormat(NetraError):
    """The body comes in a form that OTLP over HTTP does not have."""

    code = "traces.unknown_format"
    status = 415


class TooManyTraces(NetraError):
    """The body is larger than one request may be."""

    code = "traces.too_large"
    status = 413


@dataclass(frozen=True, kw_only=True)
class Traces:
    """What one request brought."""

    document: dict[str, Any]  # `{"resourceSpans": [...]}` with its good spans
    spans: int  # good ones
    rejected: int
    reason: str  # of the first that was rejected
    has_calls: bool  # some span may be a call of a model


def format_of(content_type: str) -> str:
    """JSON or PROTOBUF.

    Raises:
        UnknownFormat: it is neither.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in (JSON, PROTOBUF):
        raise UnknownFormat(f"Send traces as {PROTOBUF} or {JSON}; {kind[:60]!r} is neither.")
    return kind


def plain(body: bytes, encoding: str) -> bytes:
    """The body, unpacked.

    Raises:
        UnknownFormat: it is packed otherwise than with gzip.
        UnreadableTraces: the gzip is damaged.
        TooManyTraces: it has more than MOST_BYTES.
    """
    packed = encoding.strip().lower()
    if packed not in ("", "identity", "gzip"):
        raise UnknownFormat(f"Content-Encoding {packed[:60]!r} is not known; gzip is.")
    if packed == "gzip":
        unpacker = zlib.decompressobj(wbits=31)
        try:
            body = unpacker.decompress(body, MOST_BYTES + 1)
        except zlib.error:
            raise UnreadableTraces("The gzip of the body is damaged.") from None
        if not unpacker.eof and len(body) <= MOST_BYTES:
            raise UnreadableTraces("The gzip of the body breaks off.")
    refuse_large(len(body))
    return body


def refuse_large(size: int) -> None:
    """Raises TooManyTraces for a body of more than MOST_BYTES."""
    if size > MOST_BYTES:
        raise TooManyTraces(f"One request may have {MOST_BYTES:,} bytes. Let the exporter send smaller batches.")


def traces_in(body: bytes, kind: str) -> Traces:
    """The spans of a plain body; those without ids or a start are rejected one by one.

    Raises:
        UnreadableTraces: it is not what `kind` says.
    """
    document = _from_json(body) if kind == JSON else _from_protobuf(body)
    reasons: list[str] = []
    kept = [_good_of_resource(resource, index, reasons) for index, resource in enumerate(document["resourceSpans"])]
    spans = [span for resource in kept for scope in resource["scopeSpans"] for span in scope["spans"]]
    return Traces(
        document={"resourceSpans": kept},
        spans=len(spans),
        rejected=len(reasons),
        reason=reasons[0] if reasons else "",
        has_calls=any(_may_be_a_call(span) for span in spans),
    )


def _from_json(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise UnreadableTraces("The body is not JSON.") from None
    if not isinstance(document, dict) or not isinstance(document.get("resourceSpans", []), list):
        raise UnreadableTraces('The body is no OTLP request: {"resourceSpans": [...]} is.')
    return {"resourceSpans": document.get("resourceSpans", [])}


def _from_protobuf(body: bytes) -> dict[str, Any]:
    try:
        document: dict[str, Any] = MessageToDict(ExportTraceServiceRequest.FromString(body))
    except (DecodeError, ValueError, RecursionError):
        raise UnreadableTraces("The body is no ExportTraceServiceRequest in protobuf.") from None
    for resource in document.setdefault("resourceSpans", []):
        for scope in resource.get("scopeSpans", []):
            for span in scope.get("spans", []):
                for name in ("traceId", "spanId", "parentSpanId"):
                    span[name] = base64.b64decode(span.get(name, "")).hex()
    return document


def _good_of_resource(resource: Any, index: int, reasons: list[str]) -> dict[str, Any]:
    place = f"resourceSpans[{index}]"
    scopes = resource.get("scopeSpans", []) if isinstance(resource, dict) else None
    if not isinstance(scopes, list):
        raise UnreadableTraces(f"{place}.scopeSpans is no list.")
    kept = []
    for number, scope in enumerate(scopes):
        spans = scope.get("spans", []) if isinstance(scope, dict) else None
        if not isinstance(spans, list):
            raise UnreadableTraces(f"{place}.scopeSpans[{number}].spans is no list.")
        wrong = [_wrong_with(span) for span in spans]
        reasons += [f"{place}.scopeSpans[{number}].spans[{at}]: {why}" for at, why in enumerate(wrong) if why]
        kept.append(scope | {"spans": [span for span, why in zip(spans, wrong, strict=True) if not why]})
    whole: dict[str, Any] = resource | {"scopeSpans": kept}
    return whole


def _wrong_with(span: Any) -> str | None:
    if not isinstance(span, dict):
        return "a span is an object."
    for name, digits in (("traceId", 32), ("spanId", 16)):
        if not _is_hex(span.get(name), digits):
            return f"{name} is not {digits} hex digits."
    if not str(span.get("startTimeUnixNano", "")).isdecimal():
        return "startTimeUnixNano is no time."
    return None


def _is_hex(value: Any, digits: int) -> bool:
    return isinstance(value, str) and len(value) == digits and set(value.lower()) <= set("0123456789abcdef")


def _may_be_a_call(span: dict[str, Any]) -> bool:
    """Whether an attribute's name counts tokens; the importer decides later."""
    attributes = span.get("attributes", [])
    keys = [entry.get("key") for entry in attributes if isinstance(entry, dict)] if isinstance(attributes, list) else []
    return any(isinstance(key, str) and any(word in key for word in _TOKENS) for key in keys)


def accepted(traces: Traces, kind: str) -> bytes:
    """The body of a 200: empty, or how many spans were not taken and why."""
    answer = ExportTraceServiceResponse()
    if traces.rejected:
        answer.partial_success.rejected_spans = traces.rejected
        answer.partial_success.error_message = traces.reason
    return json.dumps(MessageToDict(answer)).encode() if kind == JSON else answer.SerializeToString()


def refused(detail: str, kind: str) -> bytes:
    """The body of an error: a `Status` with a sentence."""
    return json.dumps({"message": detail}).encode() if kind == JSON else Status(message=detail).SerializeToString()
