"""What telling of an event costs: checking its data, and the hint to whoever listens."""

from functools import cache

from uuid6 import uuid7

from apps.operations.benchmarks import Cost, component, cost_of
from apps.realtime.notifier import publish_events
from apps.realtime.schema import event_data

DATA = {"call": "call_1", "tool": "spend_breakdown", "status": "succeeded", "seconds": 0.25, "summary": "12 rows."}


@cache
def _validation(quick: bool) -> Cost:
    return cost_of(lambda: event_data("tool_completed", DATA), quick)


@cache
def _notifier(quick: bool) -> Cost:
    thread, run = uuid7(), uuid7()
    envelope = {"type": "tool_completed", "thread": str(thread), "run": str(run), "seq": 12, "data": DATA}
    events = [envelope | {"at": "2026-01-31T12:00:00.000Z", "step": "data", "attempt": 1}]
    return cost_of(lambda: publish_events(thread_id=thread, events=events), quick)


component("event validation", _validation, milliseconds=5, per_second=20_000, in_house=False)
component("notifier", _notifier, milliseconds=5, per_second=10_000)
