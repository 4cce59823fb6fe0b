"""Spans, sent to an OpenTelemetry collector over OTLP/HTTP. Off unless OTEL_EXPORTER_OTLP_ENDPOINT is set.

The SDK is an extra (`requirements-otel.txt`), loaded when the first spans are sent and by no process that sends none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.util import find_spec
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from apps.errors import NetraError

PATIENCE = 2.0  # seconds for the collector to take what is sent, repeats included
MISSING = "Traces are to be exported, and OpenTelemetry's SDK is not installed."
REMEDY = "pip install -r requirements-otel.txt -c constraints.txt"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class CollectorAway(NetraError):
    """The collector could not be reached, or takes nothing at the moment."""

    code = "collector.away"
    status = 503
    retryable = True


class SpansRefused(NetraError):
    """The collector takes spans, and not these."""

    code = "spans.refused"
    status = 502


@dataclass(frozen=True, kw_only=True)
class EndedSpan:
    """A span as a collector wants it: with both ends, ids in hexadecimal digits, and an error code or None."""

    trace_id: str
    span_id: str
    parent: str | None
    name: str
    is_client: bool  # asks somebody else
    start: datetime
    end: datetime
    error: str | None
    attributes: Mapping[str, str | int | float | bool]


def is_on() -> bool:
    """Whether a collector is configured."""
    return settings.OTLP_ENDPOINT is not None


@register
def check_extra(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    if not is_on() or _is_installed():
        return []
    return [Error(MISSING, hint=f"{REMEDY}, or unset OTEL_EXPORTER_OTLP_ENDPOINT.", id="netra.E004")]


def _is_installed() -> bool:
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False


def send(spans: Sequence[EndedSpan]) -> None:
    """Send spans and wait until the collector has them.

    Raises:
        CollectorAway: it has none of them; send them again later.
        SpansRefused: it will not take them, however often they are sent.
    """
    if not _is_installed():
        raise CollectorAway(f"{MISSING} {REMEDY}")
    if _exported(spans):
        return
    # The SDK does not say why. A collector that takes an empty message can be reached; it may just have come back.
    if not _exported([]):
        raise CollectorAway(f"The collector at {settings.OTLP_ENDPOINT} takes no spans at the moment.")
    if not _exported(spans):
        raise SpansRefused(f"The collector at {settings.OTLP_ENDPOINT} refuses {len(spans)} spans.")


def _exported(spans: Sequence[EndedSpan]) -> bool:
    from opentelemetry.sdk.trace.export import SpanExportResult

    exporter, resource = _exporter(str(settings.OTLP_ENDPOINT))
    return bool(exporter.export([_readable(span, resource) for span in spans]) is SpanExportResult.SUCCESS)


@cache
def _exporter(collector: str) -> tuple[Any, Any]:
    """The exporter, and what describes this installation on each span."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.util.re import parse_env_headers

    exporter = OTLPSpanExporter(
        endpoint=f"{collector.rstrip('/')}/v1/traces",
        headers=parse_env_headers(settings.OTLP_HEADERS, liberal=True),
        timeout=PATIENCE,
    )
    return exporter, Resource({"service.name": settings.OTLP_SERVICE_NAME})


def _readable(span: EndedSpan, resource: Any) -> Any:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.status import Status, StatusCode

    attributes = dict(span.attributes) | ({"error.type": span.error} if span.error else {})
    return ReadableSpan(
        name=span.name,
        context=_context(span.trace_id, span.span_id),
        parent=_context(span.trace_id, span.parent) if span.parent else None,
        resource=resource,
        instrumentation_scope=InstrumentationScope("netra"),
        attributes=attributes,
        kind=SpanKind.CLIENT if span.is_client else SpanKind.INTERNAL,
        status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
        start_time=_nanoseconds(span.start),
        end_time=_nanoseconds(span.end),
    )


def _context(trace_id: str, span_id: str) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _nanoseconds(at: datetime) -> int:
    return (at - EPOCH) // timedelta(microseconds=1) * 1000
