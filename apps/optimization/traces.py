"""OTLP over HTTP: the body of `POST /v1/traces` as spans, and the answers that the protocol asks for.

Source: the OTLP specification 1.x, "OTLP/HTTP", and the JSON mapping of `opentelemetry/proto/trace/v1`: 64-bit numbers
are strings and ids are hex, where protobuf's own mapping would write base64.
"""

import base64
import json
import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

from google.protobuf.descriptor import Descriptor
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
MOST_VALUES = 500_000  # in one body: some 8,000 spans of a dozen attributes
MOST_AT_ONCE = 2 * MOST_VALUES  # in all bodies that a process has open
_LONGEST_VARINT = 10  # bytes
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
    """The body is larger, or has more in it, than one request may."""

    code = "traces.too_large"
    status = 413


class TooManyAtOnce(NetraError):
    """Other requests of this moment fill the memory that there is for them."""

    code = "traces.busy"
    status = 503
    retryable = True


@dataclass
class _Rejected:
    """Spans that were not taken; a million of them need no million reasons."""

    number: int = 0
    reason: str = ""  # of the first

    def add(self, place: str, why: str) -> None:
        self.number += 1
        self.reason = self.reason or f"{place}: {why}"


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


@contextmanager
def traces_in(body: bytes, kind: str) -> Iterator[Traces]:
    """The spans of a plain body, as long as the context lasts; those without ids or a start are rejected one by one.

    Raises:
        UnreadableTraces: it is not what `kind` says.
        TooManyTraces: it has more than MOST_VALUES.
        TooManyAtOnce: with those that are open already, there would be more than MOST_AT_ONCE.
    """
    # Counted first: two bytes can be an object of hundreds.
    values = _values_in_json(body) if kind == JSON else _values_in_protobuf(body)
    if values > MOST_VALUES:
        raise TooManyTraces(f"One request may have {MOST_VALUES:,} values. Let the exporter send smaller batches.")
    with _room_for(values):
        yield _good_of(_from_json(body) if kind == JSON else _from_protobuf(body))


_open_values, _counting = 0, threading.Lock()


@contextmanager
def _room_for(values: int) -> Iterator[None]:
    """Keep to MOST_AT_ONCE: twenty large bodies at a time would take the memory of everything else."""
    global _open_values
    with _counting:
        if _open_values + values > MOST_AT_ONCE:
            raise TooManyAtOnce("Many spans come at this moment. Send these again in a second.", retry_after=1.0)
        _open_values += values
    try:
        yield
    finally:
        with _counting:
            _open_values -= values


def _values_in_json(body: bytes) -> int:
    """How many brackets and commas the text has, each of which begins a value or two; no more are counted than it may
    have."""
    # What a string holds is no value, however many commas a prompt has.
    found = re.finditer(rb'([{[,])|"[^"]*"', body.replace(rb"\\", b"").replace(rb"\"", b""))
    return sum(1 for _ in islice((mark for mark in found if mark.lastindex), MOST_VALUES + 1))


def _values_in_protobuf(body: bytes) -> int:
    """How many fields the body has on all levels; no more are looked at than it may have.

    Raises:
        UnreadableTraces: lengths do not fit, or it has groups, which OTLP has not.
    """
    values = 0
    waiting = [(ExportTraceServiceRequest.DESCRIPTOR, 0, len(body))]
    try:
        while waiting:
            message, at, end = waiting.pop()
            inner = _messages_in(message)
            while at < end and values <= MOST_VALUES:
                values += 1
                tag, at = _varint(body, at)
                start, at = _extent(body, at, tag & 7)
                if tag in inner:
                    waiting.append((inner[tag], start, at))
            if at > end:
                raise ValueError
    except (LookupError, ValueError):
        raise _no_protobuf() from None
    return values


@cache
def _messages_in(message: Descriptor) -> dict[int, Descriptor]:
    """Tag of a field -> what it is, of the fields that are messages themselves."""
    return {field.number << 3 | 2: field.message_type for field in message.fields if field.message_type}


def _extent(body: bytes, at: int, wire_type: int) -> tuple[int, int]:
    """Where the field whose tag ends at `at` has its content, and where it ends."""
    if wire_type == 2:
        length, at = _varint(body, at)
        return at, at + length
    if wire_type == 0:
        return at, _varint(body, at)[1]
    return at, at + {1: 8, 5: 4}[wire_type]


def _varint(body: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends."""
    value = body[at]
    if value < 128:
        return value, at + 1
    value &= 127
    for place in range(1, _LONGEST_VARINT):
        byte = body[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise ValueError


def _good_of(document: dict[str, Any]) -> Traces:
    rejected = _Rejected()
    kept = [_good_of_resource(resource, index, rejected) for index, resource in enumerate(document["resourceSpans"])]
    spans = [span for resource in kept for scope in resource["scopeSpans"] for span in scope["spans"]]
    return Traces(
        document={"resourceSpans": [resource for resource in kept if resource["scopeSpans"]]},
        spans=len(spans),
        rejected=rejected.number,
        reason=rejected.reason,
        has_calls=any(_may_be_a_call(span) for span in spans),
    )


def _from_json(body: bytes) -> dict[str, Any]:
    try:
        # Not as json.loads would guess: OTLP is UTF-8, and in no other encoding are the values counted right.
        document = json.loads(body.decode())
    except (ValueError, RecursionError):
        raise UnreadableTraces("The body is not JSON.") from None
    if not isinstance(document, dict) or not isinstance(document.get("resourceSpans", []), list):
        raise UnreadableTraces('The body is no OTLP request: {"resourceSpans": [...]} is.')
    return {"resourceSpans": document.get("resourceSpans", [])}


def _from_protobuf(body: bytes) -> dict[str, Any]:
    try:
        document: dict[str, Any] = MessageToDict(ExportTraceServiceRequest.FromString(body))
    except (DecodeError, ValueError, RecursionError):
        raise _no_protobuf() from None
    for resource in document.setdefault("resourceSpans", []):
        for scope in resource.get("scopeSpans", []):
            for span in scope.get("spans", []):
                for name in ("traceId", "spanId", "parentSpanId"):
                    span[name] = base64.b64decode(span.get(name, "")).hex()
    return document


def _no_protobuf() -> UnreadableTraces:
    return UnreadableTraces("The body is no ExportTraceServiceRequest in protobuf.")


def _good_of_resource(resource: Any, index: int, rejected: _Rejected) -> dict[str, Any]:
    place = f"resourceSpans[{index}]"
    scopes = resource.get("scopeSpans", []) if isinstance(resource, dict) else None
    if not isinstance(scopes, list):
        raise UnreadableTraces(f"{place}.scopeSpans is no list.")
    kept = []
    for number, scope in enumerate(scopes):
        spans = scope.get("spans", []) if isinstance(scope, dict) else None
        if not isinstance(spans, list):
            raise UnreadableTraces(f"{place}.scopeSpans[{number}].spans is no list.")
        good = []
        for at, span in enumerate(spans):
            if why := _wrong_with(span):
                rejected.add(f"{place}.scopeSpans[{number}].spans[{at}]", why)
            else:
                good.append(span)
        if good:
            kept.append(scope | {"spans": good})
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
