"""Operators see where a run's time went."""

import doctest
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from apps.conversations.models import Run
from apps.execution import admission, claims, services, waterfall
from apps.execution.trace import Kind, Span, Trace

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds):
    return None if seconds is None else BEGIN + timedelta(seconds=seconds)


def span(id, start, end, *, parent="root", last_seen=None, **more):
    return Span(
        id=id,
        parent=parent,
        name=id,
        status="completed",
        start=at(start),
        end=at(end),
        first_seen=at(start),
        last_seen=at(end if last_seen is None else last_seen),
        **{"kind": Kind.STEP, "attributes": {}} | more,
    )


def drawn(*spans):
    root = span("root", 0, 10, parent=None, kind=Kind.RUN)
    times = dict.fromkeys(("queued_seconds", "waiting_seconds", "working_seconds"))
    trace = Trace(id="0", run=uuid4(), thread=uuid4(), status="completed", spans=(root, *spans), **times)
    return waterfall.draw(trace)


def test_a_bar_lies_where_its_span_was_in_the_runs_time():
    picture = drawn(span("one", 2, 5), span("call", 3, 4, parent="one"))

    assert [(row.left, row.width, row.depth) for row in picture.rows] == [(0, 100, 0), (20, 30, 1), (30, 10, 2)]
    assert picture.ticks == ("0 s", "2.50 s", "5.00 s", "7.50 s", "10.00 s")


def test_a_span_without_an_end_is_drawn_as_far_as_it_was_heard_of():
    row = drawn(span("lost", 2, None, last_seen=6)).rows[1]

    assert (row.is_open, row.left, row.width, row.took) == (True, 20, 40, "unknown")


def test_what_never_began_has_no_bar_and_what_took_no_time_a_narrow_one():
    never, moment = drawn(span("never", None, None), span("moment", 10, 10)).rows[1:]

    assert (never.left, never.width) == (None, None)
    assert moment.left + moment.width == pytest.approx(100)
    assert moment.width > 0


def test_a_model_call_of_unknown_cost_says_so():
    call = span("call", 1, 2, kind=Kind.MODEL_CALL, attributes={"gen_ai.usage.input_tokens": 1700})

    assert drawn(call).rows[1].note == "tokens unknown, cost unknown"


def test_times_are_said_as_the_documentation_says():
    assert doctest.testmod(waterfall).failed == 0


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("under_way", [True, False])
def test_the_page_of_a_run_shows_its_waterfall(
    script, rings, thread, as_principal, alice, work_on, worker, client_for, under_way
):
    run = services.start_run(principal=as_principal(alice), thread_id=thread.pk, text="Hello").run
    if under_way:
        admission.admit_one()
        claims.claim_step(run, worker=worker)
    else:
        work_on(run)
    alice.is_staff = alice.is_superuser = True
    alice.save()

    page = client_for(alice).get(f"/admin/conversations/run/{run}/change/").content.decode()

    assert Run.objects.get(pk=run).state == ("running" if under_way else "completed")
    assert f"Trace {run.hex}" in page
    assert page.count("<rect class=") == (3 if under_way else 4)
    assert "invoke_agent first" in page
