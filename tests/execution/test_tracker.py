"""A run's trace says where its time went, and does not say what nobody knows."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.db.models import F
from django.utils import timezone

from apps.accounts.models import User
from apps.conversations import journal
from apps.conversations.models import Event, Question, Run, Step, ToolCall
from apps.execution import admission, claims, services
from apps.execution.registry import Interruption, Postponed
from apps.execution.tracker import AgentExecutionTracker, _seconds_in_any
from apps.llm import ledger
from apps.llm.models import ModelCall
from apps.operations.database import in_database

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _scripted(script, rings):
    """Every test here runs scripted agents."""


@pytest.fixture
def start(as_principal, alice, thread):
    return lambda: services.start_run(principal=as_principal(alice), thread_id=thread.pk, text="Hello").run


def trace_of(run):
    return AgentExecutionTracker.trace(Run.objects.get(pk=run))


def spans_of(run, kind):
    return [span for span in trace_of(run).spans if span.kind == kind]


def asker(context):
    return ledger.Asker(
        principal=context.principal,
        run=context.run_id,
        step=context.step,
        attempt=context.attempt,
    )


def lose(run):
    """What a rescue does with the step of a process that was killed."""
    held = Step.objects.filter(run=run, state="running")
    assert held.update(state="ready", worker=None, losses=1, reason="the worker stopped; another took over") == 1


def test_a_finished_run_is_a_tree_of_its_queue_its_steps_and_their_calls(start, work_on, script, thread):
    async def first(scope):
        await scope.tools.execute_tool("shout", {"text": "a"}, call="c1")
        return await script._note(scope)

    script.first = first
    run = start()

    work_on(run)

    trace = trace_of(run)
    assert (trace.id, trace.run, trace.thread, trace.status) == (run.hex, run, thread.pk, "completed")
    told = [(span.kind, span.name, span.status) for span in trace.spans]
    assert told == [
        ("run", "invoke_workflow scripted", "completed"),
        ("queue", "queue", "admitted"),
        ("step", "invoke_agent first", "completed"),
        ("tool_call", "execute_tool shout", "succeeded"),
        ("step", "invoke_agent second", "completed"),
    ]
    root, queue, one, call, two = trace.spans
    assert [span.parent for span in trace.spans] == [None, root.id, root.id, one.id, root.id]
    assert root.start <= queue.end <= one.start <= call.start <= call.end <= one.end <= two.start <= two.end <= root.end
    assert call.attributes["gen_ai.tool.name"] == "shout"
    assert call.attributes["gen_ai.tool.call.id"] == "c1"
    assert {span.attributes["gen_ai.conversation.id"] for span in trace.spans} == {str(thread.pk)}
    assert not any(span.error for span in trace.spans)


def test_queued_waiting_and_working_make_up_the_whole_time(start, work_on):
    run = start()
    work_on(run)
    row = Run.objects.get(pk=run)

    trace = trace_of(run)

    total = (row.finished_at - row.created_at).total_seconds()
    assert trace.queued_seconds == (row.started_at - row.created_at).total_seconds()
    assert trace.queued_seconds + trace.waiting_seconds + trace.working_seconds == pytest.approx(total)
    steps = [span for span in trace.spans if span.kind == "step"]
    assert trace.working_seconds == pytest.approx(sum((span.end - span.start).total_seconds() for span in steps))


def test_the_same_rows_have_the_same_ids_each_time(start, work_on):
    run, other = start(), start()
    for each in (run, other):
        work_on(each)

    ids = [span.id for span in trace_of(run).spans]
    assert [span.id for span in trace_of(run).spans] == ids
    assert len(set(ids)) == len(ids)
    assert all(len(id) == 16 and int(id, 16) for id in ids)
    assert not set(ids) & {span.id for span in trace_of(other).spans}


def test_a_killed_attempt_is_a_span_of_its_own_whose_end_nobody_knows(start, work_on, worker):
    run = start()
    admission.admit_one()
    context = claims.claim_step(run, worker=worker).context
    answered = ledger.ask(asker(context), key="1", provider="host", model="gpt-4o-mini")
    known = {"seconds": 0.1, "input_tokens": 7, "cost_usd": Decimal("0.50")}
    ledger.answer(answered.call, answer="{}", heard=lambda: journal.hold(context.fence), **known)
    ledger.ask(asker(context), key="2", provider="host", model="gpt-4o-mini")
    lose(run)

    work_on(run)

    lost, again = [span for span in spans_of(run, "step") if span.attributes["netra.step"] == "one"]
    assert (lost.attempt, lost.status, lost.error, lost.end, lost.seconds) == (
        1,
        "interrupted",
        "interrupted",
        None,
        None,
    )
    assert (again.attempt, again.status, again.error) == (2, "completed", None)
    assert again.start == Event.objects.get(run_id=run, type="run_recovering").at
    assert "netra.interrupted_because" in lost.attributes
    whole, cut = spans_of(run, "model_call")
    assert [whole.parent, cut.parent] == [lost.id, lost.id]
    assert whole.attributes["gen_ai.usage.input_tokens"] == 7
    assert whole.attributes["netra.cost_usd"] == "0.5"
    assert (cut.status, cut.error, cut.end) == ("cut", "cut", None)
    assert not {"gen_ai.usage.input_tokens", "netra.cost_usd"} & set(cut.attributes)
    assert lost.last_seen == cut.start


def test_a_call_that_a_living_worker_waits_for_is_asked_and_not_cut(start, worker):
    run = start()
    admission.admit_one()
    ledger.ask(asker(claims.claim_step(run, worker=worker).context), key="1", provider="host", model="m")

    assert [span.status for span in spans_of(run, "model_call")] == ["asked"]
    assert ModelCall.objects.get().state == "asked"


def test_a_run_that_is_under_way_has_no_end_and_no_sums(start, worker):
    run = start()
    admission.admit_one()
    claims.claim_step(run, worker=worker)

    trace = trace_of(run)

    assert (trace.spans[0].end, trace.spans[0].seconds) == (None, None)
    assert (trace.waiting_seconds, trace.working_seconds) == (None, None)
    assert trace.queued_seconds is not None
    statuses = [(span.status, span.first_seen is None) for span in trace.spans if span.kind == "step"]
    assert statuses == [("running", False), ("blocked", True)]


def test_the_time_a_person_took_is_waiting(start, work_on, script, as_principal, alice):
    async def first(scope):
        await scope.ask_for_data(
            {"field": "prompt", "why": "?", "unlocks": "?", "worth_usd": None, "how_to_export": "?"}
        )
        return await script._note(scope)

    script.first = first
    run = start()
    work_on(run)
    services.answer_run(principal=as_principal(alice), run_id=run, call=None, value="here")
    Run.objects.filter(pk=run).update(deadline_at=timezone.now() + timedelta(hours=1))
    answered = Event.objects.filter(run_id=run).latest("seq").seq
    work_on(run)
    took = timedelta(seconds=40)
    Question.objects.update(asked_at=F("answered_at") - took)
    Event.objects.filter(run_id=run, seq__lte=answered).update(at=F("at") - took)
    Run.objects.filter(pk=run).update(created_at=F("created_at") - took, started_at=F("started_at") - took)

    trace = trace_of(run)

    assert trace.waiting_seconds == pytest.approx(40, abs=5)
    assert trace.working_seconds < 10
    (question,) = spans_of(run, "question")
    assert (question.status, question.seconds, question.attributes["netra.question.reason"]) == ("answered", 40, "data")
    first_try, second_try, _ = spans_of(run, "step")
    assert (first_try.status, first_try.error) == ("waited", None)
    # No event says when an attempt begins that a person's answer made possible.
    assert (second_try.attempt, second_try.status, second_try.start) == (2, "completed", None)
    assert second_try.first_seen is not None


def test_the_time_that_a_step_was_put_off_is_not_worked(start, work_on, script):
    async def first(scope):
        if scope.context.attempt == 1:
            raise Interruption(Postponed(seconds=1.0, reason="out of order"))
        return await script._note(scope)

    script.first = first
    run = start()
    work_on(run)
    took = timedelta(seconds=3600)
    Event.objects.filter(run_id=run).update(at=F("at") - took)
    earlier = {"created_at": F("created_at") - took, "started_at": F("started_at") - took}
    Run.objects.filter(pk=run).update(**earlier, not_before=None)
    User.objects.update(runnable=True)
    Step.objects.filter(run=run).update(not_before=None)
    work_on(run)

    trace = trace_of(run)

    assert trace.status == "completed"
    assert trace.waiting_seconds == pytest.approx(3600, abs=30)
    assert trace.working_seconds < 10


def test_steps_that_work_at_once_are_counted_once():
    at = datetime(2026, 1, 1, tzinfo=UTC)
    times = [(10, 30), (20, 40), (50, 60), (95, None), (None, None)]
    spans = [tuple(None if second is None else at + timedelta(seconds=second) for second in span) for span in times]

    assert _seconds_in_any(spans) == 30 + 10


def test_a_tool_call_belongs_to_the_attempt_that_made_it_whoever_finished_it(start, work_on, script, worker):
    async def first(scope):
        await scope.tools.execute_tool("shout", {"text": "a"}, call="c1")
        if scope.context.attempt == 1:
            # As if it had been killed before the result was journaled.
            await in_database(ToolCall.objects.update, state="started", finished_at=None, result=None)
            await in_database(lose, run)
        return await script._note(scope)

    script.first = first
    run = start()

    work_on(run)

    (call,) = spans_of(run, "tool_call")
    lost, again, _ = spans_of(run, "step")
    assert (lost.attempt, again.attempt) == (1, 2)
    assert (call.parent, call.attempt, call.status) == (lost.id, 1, "succeeded")
    assert ToolCall.objects.get().attempt == 2


def test_a_refused_call_and_a_failed_run_say_why(start, work_on, script):
    async def first(scope):
        await scope.tools.execute_tool("no_such_tool", {}, call="c1")
        raise RuntimeError("a bug")

    script.first = first
    run = start()

    work_on(run)

    (call,) = spans_of(run, "tool_call")
    assert (call.status, call.error) == ("refused", "tool.denied")
    root = trace_of(run).spans[0]
    assert (root.status, root.error) == ("failed", Run.objects.get(pk=run).error_code)
    one, two = spans_of(run, "step")
    assert (one.status, one.error) == ("failed", "failed")
    assert (two.status, two.error, two.first_seen) == ("skipped", None, None)


def test_a_run_that_was_stopped_in_the_queue_did_nothing_but_queue(start, as_principal, alice):
    run = start()
    services.cancel_run(principal=as_principal(alice), run_id=run)

    trace = trace_of(run)

    assert [(span.kind, span.status) for span in trace.spans] == [("run", "cancelled"), ("queue", "cancelled")]
    assert trace.queued_seconds == trace.spans[0].seconds
    assert (trace.waiting_seconds, trace.working_seconds) == (0, 0)


def test_a_trace_is_read_over_rest_with_what_is_unknown_as_null(start, work_on, worker, client_for, alice):
    run = start()
    admission.admit_one()
    claims.claim_step(run, worker=worker)
    lose(run)
    work_on(run)

    trace = client_for(alice).get(f"/api/runs/{run}/trace/").json()

    assert trace["id"] == run.hex
    lost = next(span for span in trace["spans"] if span["status"] == "interrupted")
    assert (lost["end"], lost["seconds"], lost["attempt"]) == (None, None, 1)
    assert lost["attributes"]["gen_ai.operation.name"] == "invoke_agent"
    assert trace["working_seconds"] > 0


def test_a_trace_takes_as_many_queries_for_a_long_run_as_for_a_short_one(
    start, work_on, script, django_assert_num_queries
):
    async def first(scope):
        for number in range(20):
            await scope.tools.execute_tool("shout", {"text": "a"}, call=f"c{number}")
        return await script._note(scope)

    short, script.first = start(), script.first
    work_on(short)
    script.first = first
    long = start()
    work_on(long)

    for run in (short, long):
        row = Run.objects.get(pk=run)
        with django_assert_num_queries(6):
            AgentExecutionTracker.trace(row)
