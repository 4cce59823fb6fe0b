"""Traces of finished runs, sent to a collector afterwards: no run waits for it, and no trace is lost without it."""

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from django.conf import settings
from django.db import DatabaseError
from django.db.models import Q
from django.utils import timezone

from apps.conversations.models import Run
from apps.execution.models import TraceExport
from apps.execution.trace import Kind, Trace
from apps.execution.tracker import AgentExecutionTracker
from apps.operations import telemetry
from apps.operations.telemetry import CollectorAway, EndedSpan

log = structlog.get_logger(__name__)

EVERY = 5.0  # seconds between two looks for finished runs
MOST_SECONDS = 2.5  # of one look; the scheduler has other duties
BATCH = 50  # runs read at once
SETTLED = timedelta(seconds=20)  # longer than a transaction may stay open: no run ends behind the cursor


def export_traces(now: datetime | None = None) -> int:
    """Send the traces of runs that have ended since the last one sent, the oldest first; answers how many.

    Runs that ended before the collector was configured are left out. A run is sent once, unless the process dies
    between sending and noting it; its spans then have the same ids as before.
    """
    began, now = time.monotonic(), now or timezone.now()
    cursor, _ = TraceExport.objects.get_or_create(
        collector=settings.OTLP_ENDPOINT, defaults={"finished_at": now, "run": UUID(int=0)}
    )
    sent = 0
    for run in _ended_between(cursor, now - SETTLED):
        if time.monotonic() - began > MOST_SECONDS or not _sent(run):
            break
        TraceExport.objects.filter(pk=cursor.pk).update(finished_at=run.finished_at, run=run.pk)
        sent += 1
    return sent


def _ended_between(cursor: TraceExport, until: datetime) -> Iterator[Run]:
    finished_at, run = cursor.finished_at, cursor.run
    while True:
        later = Q(finished_at__gt=finished_at) | Q(finished_at=finished_at, pk__gt=run)
        found = list(Run.objects.filter(later, finished_at__lt=until).order_by("finished_at", "pk")[:BATCH])
        if not found:
            return
        yield from found
        finished_at, run = found[-1].finished_at, found[-1].pk


def _sent(run: Run) -> bool:
    """Whether the collector has the run's trace, or will never have it."""
    try:
        telemetry.send(ended_spans(AgentExecutionTracker.trace(run)))
    except CollectorAway as error:
        log.warning("Traces wait for their collector", reason=error.detail)
        return False
    except DatabaseError:
        raise
    except Exception as error:
        # One trace that is refused, or cannot be made, must not keep the others, or the scheduler, from theirs.
        log.error("A trace is left out", run=str(run.pk), exc_info=error)
    return True


def ended_spans(trace: Trace) -> list[EndedSpan]:
    """A finished run's spans as a collector wants them.

    A collector knows no open ends: where one is not known, the last that was heard stands for it, and is marked. What
    never began is left out.
    """
    return [
        EndedSpan(
            trace_id=trace.id,
            span_id=span.id,
            parent=span.parent,
            name=span.name,
            is_client=span.kind == Kind.MODEL_CALL,
            start=span.first_seen,
            end=span.last_seen,
            error=span.error,
            attributes=dict(span.attributes)
            | {"netra.kind": span.kind.value, "netra.status": span.status}
            | ({"netra.attempt": span.attempt} if span.attempt is not None else {})
            | ({} if span.start and span.end else {"netra.bounds_known": False}),
        )
        for span in trace.spans
        if span.first_seen is not None and span.last_seen is not None
    ]
