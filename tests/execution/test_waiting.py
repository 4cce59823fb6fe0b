"""Runs that wait for a person: asked once, answered once, expired, cancelled, and nobody else's business."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.db.models import F
from uuid6 import uuid7

from apps.accounts.models import Membership, Plan, User
from apps.conversations.models import Message, Question, Run, Step, Thread, ToolCall
from apps.conversations.services import RunNotFound, create_thread
from apps.errors import Forbidden, Invalid
from apps.execution import admission, claims, questions, services, worker
from apps.execution.context import CALL_LENGTH
from apps.execution.questions import NotWaiting
from apps.execution.registry import Interruption, StepSpec, Waiting
from apps.execution.services import IdempotencyMismatch, RunWaiting
from apps.execution.sweep import _expire, sweep
from apps.operations.database import in_database
from tests.execution.conftest import LONG_AGO, Note, attempt, beat, events_of, state_of, step_of, told, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

ITEM = {
    "field": "cached_tokens",
    "why": "A prompt may have been paid for twice.",
    "unlocks": "caching",
    "worth_usd": None,
    "how_to_export": "In the settings of the export.",
}


@pytest.fixture(autouse=True)
def _scripted(script, rings):
    """Every test here runs scripted agents."""


@pytest.fixture
def heard(script):
    """The first agent asks for data; what it was answered."""
    heard = []

    async def ask(scope):
        heard.append(await scope.ask_for_data(ITEM))
        return await script._note(scope)

    script.first = ask
    return heard


@pytest.fixture
def outcomes(script):
    """The first agent calls the tool that needs leave; how that went."""
    outcomes = []

    async def act(scope):
        outcomes.append(await scope.tools.execute_tool("guarded", {"text": "hey"}, call="c1"))
        return await script._note(scope)

    script.first = act
    return outcomes


@pytest.fixture
def say(as_principal, alice):
    """Answer a run, by default as Alice."""

    def say(run, value, *, call=None, user=alice):
        return services.answer_run(principal=as_principal(user), run_id=run, call=call, value=value)

    return say


@pytest.fixture
def waiting(start, work_on):
    """A run that waits, for whatever its first agent asks."""

    def waiting():
        run = start()
        work_on(run)
        assert state_of(run) == Run.State.WAITING
        return run

    return waiting


@pytest.fixture
def another_thread(as_principal, alice):
    return lambda: create_thread(principal=as_principal(alice)).pk


def at_once(*deeds):
    """Do things at the same moment; answers what each returned or raised."""
    barrier = threading.Barrier(len(deeds))

    def do(deed):
        barrier.wait(10)
        try:
            return deed()
        except Exception as error:
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(len(deeds)) as rivals:
        return [done.result(20) for done in [rivals.submit(do, deed) for deed in deeds]]


# --- Waiting ---------------------------------------------------------------------------------------------------------


def test_a_run_that_asks_for_data_waits_and_goes_on_with_the_answer(waiting, heard, say, work_on, thread, alice):
    run = waiting()
    assert told(thread)[-1] == "data_requested"
    assert step_of(run, "one").state == Step.State.WAITING
    assert events_of(thread)[-1]["data"]["items"] == [ITEM]

    say(run, {"yes": 1})
    work_on(run)

    assert heard == [{"yes": 1}]
    assert state_of(run) == Run.State.COMPLETED
    assert told(thread).count("data_requested") == told(thread).count("answer_received") == 1
    assert "run_recovering" not in told(thread)
    question = Question.objects.get()
    assert (question.answered_by, question.value) == (alice.pk, {"yes": 1})


def test_waiting_frees_the_users_place(waiting, heard, start, another_thread):
    Plan.objects.update(max_running_runs=1)
    waiting()

    other = start(thread_id=another_thread())

    assert admission.admit_one() == other


def test_waiting_keeps_the_threads_line(start, work_on, heard, say, thread):
    first, second = start(), start()
    work_on(first)

    assert state_of(first) == Run.State.WAITING
    assert admission.admit_one() is None
    assert Thread.objects.get(pk=thread.pk).live_run == first
    say(first, "yes")
    work_on(first)
    work_on(second)

    assert state_of(first) == Run.State.COMPLETED
    assert Run.objects.get(pk=second).queued_seq > Run.objects.get(pk=first).queued_seq
    assert told(thread).index("agent_completed") < len(told(thread)) - 1 - told(thread)[::-1].index("agent_started")


def test_a_run_that_was_answered_goes_on_only_when_its_user_has_a_free_place(
    waiting, heard, say, start, another_thread, work_on
):
    Plan.objects.update(max_running_runs=1)
    run = waiting()
    other = start(thread_id=another_thread())
    assert admission.admit_one() == other

    say(run, "yes")

    assert admission.admit_one() is None
    assert claims.claim_step(run, worker=uuid7()) is None
    work_on(other)
    assert state_of(other) == Run.State.WAITING
    work_on(run)
    assert state_of(run) == Run.State.COMPLETED


def test_an_answer_is_heard_by_admission_though_it_had_found_nothing_to_start(waiting, heard, say):
    run = waiting()
    assert admission.admit_one() is None

    say(run, "yes")

    assert admission.admit_one() == run


def test_the_time_that_a_person_takes_is_not_the_runs(waiting, heard, say, work_on):
    run = waiting()
    Run.objects.filter(pk=run).update(deadline_at=LONG_AGO)

    say(run, "yes")
    work_on(run)

    assert state_of(run) == Run.State.COMPLETED


def test_the_time_of_work_adds_up_however_often_a_run_waits(start, work_on, script, say):
    """Each attempt works for 25 s of the 60 s that the run has, and asks for something else."""
    Plan.objects.update(max_run_seconds=60)

    async def ask(scope):
        await in_database(Run.objects.update, deadline_at=F("deadline_at") - timedelta(seconds=25))
        for call in ("a", "b", "c"):
            await scope.ask_for_data(ITEM, call=call)

    script.first = ask
    run = start()
    left = []
    for _ in range(3):
        work_on(run)
        left.append(Run.objects.get(pk=run).seconds_left)
        say(run, "yes")
    work_on(run)

    assert [25 < left[0] <= 35, 0 < left[1] <= 10, left[2]] == [True, True, 0]
    ended = Run.objects.get(pk=run)
    assert (ended.state, ended.error_code) == (Run.State.FAILED, "step.deadline")


def test_a_worker_that_is_rung_for_the_answer_brings_the_run_to_its_end(start, heard, say, monkeypatch, settings):
    settings.DRAIN_SECONDS = 0
    loop = worker.WorkerLoop()
    monkeypatch.setattr("apps.execution.doorbell._ring", loop.wake)
    try:
        run = start()
        wait_until(lambda: state_of(run) == Run.State.WAITING)
        say(run, "yes")
        wait_until(lambda: state_of(run) == Run.State.COMPLETED)
    finally:
        loop.stop()


# --- A message as the answer -----------------------------------------------------------------------------------------


def test_a_message_to_a_thread_that_waits_for_data_is_the_answer(waiting, heard, start, work_on, thread):
    run = waiting()

    assert start("Here it is.") == run
    work_on(run)

    assert heard == [{"text": "Here it is.", "dataset": None}]
    assert told(thread).count("run_queued") == 1
    answer = told(thread).index("answer_received")
    assert told(thread)[answer - 1 : answer + 1] == ["message_created", "answer_received"]
    assert Message.objects.filter(run=run, role="user", text="Here it is.").count() == 1


def test_a_dataset_that_comes_with_the_answer_is_handed_to_the_agent(waiting, heard, start, work_on):
    run, dataset = waiting(), uuid7()

    start("Here it is.", dataset=dataset)
    work_on(run)

    assert heard[0]["dataset"] == str(dataset)


def test_a_message_to_a_thread_that_waits_for_leave_is_refused(waiting, outcomes, start, thread):
    waiting()
    before = told(thread)

    with pytest.raises(RunWaiting):
        start("What about something else?")

    assert told(thread) == before


def test_a_message_is_the_answer_also_while_another_step_is_still_at_work(start, define_workflow, script, say, work_on):
    define_workflow(StepSpec(name="asks", agent="first"), StepSpec(name="works", agent="second"))
    heard = []

    async def ask(scope):
        heard.append(await scope.ask_for_data(ITEM))
        return await script._note(scope)

    script.by_step["asks"] = ask
    run = start()
    admission.admit_one()
    asking, working = (claims.claim_step(run, worker=beat(uuid7())) for _ in range(2))
    attempt(asking)
    assert state_of(run) == Run.State.RUNNING

    assert start("Here it is.") == run
    attempt(working)
    work_on(run)

    assert heard == [{"text": "Here it is.", "dataset": None}]
    assert state_of(run) == Run.State.COMPLETED


# --- Once ------------------------------------------------------------------------------------------------------------


def test_of_many_who_answer_at_once_one_is_heard(waiting, heard, say, work_on, thread):
    run = waiting()

    results = at_once(*[lambda number=number: say(run, number) for number in range(8)])

    refused = [result for result in results if isinstance(result, NotWaiting)]
    assert len(refused) == 7
    assert sum(isinstance(result, Run) for result in results) == 1
    work_on(run)
    assert told(thread).count("answer_received") == 1
    assert heard == [Question.objects.get().value]
    assert state_of(run) == Run.State.COMPLETED


def test_of_many_messages_at_once_one_is_the_answer_and_none_is_lost(waiting, heard, start, thread):
    run = waiting()

    runs = at_once(*[lambda number=number: start(f"Answer {number}") for number in range(6)])

    assert runs.count(run) == 1
    assert len(set(runs)) == 6
    assert told(thread).count("answer_received") == 1
    assert told(thread).count("message_created") == 7


def test_an_answer_that_comes_before_the_step_has_come_to_rest_is_heard(start, work_on, script, say, thread):
    heard = []

    async def ask(scope):
        answered = await in_database(questions.ask_for_data, scope.context, call="data", items=[ITEM])
        if answered.value is None:
            await in_database(say, scope.context.run_id, "quick")
            raise Interruption(Waiting(call="data"))
        heard.append(answered.value)
        return await script._note(scope)

    script.first = ask
    run = start()

    work_on(run)

    assert heard == ["quick"]
    assert state_of(run) == Run.State.COMPLETED
    assert told(thread).count("data_requested") == 1


def test_a_worker_that_dies_between_asking_and_resting_asks_nothing_twice(start, work_on, script, say, thread):
    async def ask(scope):
        answered = await in_database(questions.ask_for_data, scope.context, call="data", items=[ITEM])
        if scope.context.attempt == 1:
            raise OperationalError("cut")
        if answered.value is None:
            raise Interruption(Waiting(call="data"))
        return await script._note(scope)

    script.first = ask
    run = start()
    work_on(run)

    say(run, "yes")
    work_on(run)

    assert told(thread).count("data_requested") == 1
    assert state_of(run) == Run.State.COMPLETED


def test_an_answer_and_a_cancellation_at_once_leave_one_of_them(
    waiting, heard, say, as_principal, alice, thread, start
):
    for _ in range(8):
        run = waiting()
        cancel = lambda run=run: services.cancel_run(principal=as_principal(alice), run_id=run)  # noqa: E731

        answered, cancelled = at_once(lambda run=run: say(run, "yes"), cancel)

        assert not isinstance(cancelled, Exception)
        assert isinstance(answered, Run | NotWaiting)
        assert state_of(run) == Run.State.CANCELLED
    assert told(thread).count("step_started") == told(thread).count("step_completed") == 8


def test_an_answer_and_its_expiry_at_once_leave_one_of_them(waiting, heard, say, work_on, thread):
    for _ in range(8):
        run = waiting()
        Question.objects.filter(run=run).update(expires_at=LONG_AGO)

        answered, _ = at_once(lambda run=run: say(run, "yes"), sweep)

        if isinstance(answered, Exception):
            assert isinstance(answered, NotWaiting)
            assert Run.objects.get(pk=run).error_code == "run.expired"
        else:
            work_on(run)
            assert state_of(run) == Run.State.COMPLETED
    assert told(thread).count("agent_completed") + told(thread).count("agent_error") == 8


def test_several_things_are_answered_one_by_one(start, define_workflow, script, say, work_on, thread):
    define_workflow(
        StepSpec(name="left", agent="first"),
        StepSpec(name="right", agent="first"),
        StepSpec(name="join", agent="second", depends_on=("left", "right")),
    )
    heard = {}

    async def ask(scope):
        heard[scope.context.step] = await scope.ask_for_data(ITEM, call=scope.context.step)
        return await script._note(scope)

    script.first = ask
    run = start()
    work_on(run)
    assert state_of(run) == Run.State.WAITING

    with pytest.raises(Invalid, match=r"left.*right"):
        say(run, "which?")
    say(run, "R", call="right")
    work_on(run)
    assert heard == {"right": "R"}
    assert state_of(run) == Run.State.WAITING
    with pytest.raises(NotWaiting):
        say(run, "again", call="right")
    say(run, "L")
    work_on(run)

    assert heard == {"right": "R", "left": "L"}
    assert state_of(run) == Run.State.COMPLETED
    assert told(thread).count("data_requested") == told(thread).count("answer_received") == 2


def test_questions_with_long_names_are_told_apart_and_answered_by_the_names_that_were_told(
    waiting, script, say, work_on, thread
):
    heard = []

    async def ask(scope):
        for end in ("a", "b"):
            heard.append(await scope.ask_for_data(ITEM, call="x" * 300 + end))
        return await script._note(scope)

    script.first = ask
    run = waiting()
    for value in ("first", "second"):
        asked = [event["data"]["call"] for event in events_of(thread) if event["type"] == "data_requested"]
        assert len(asked[-1]) == CALL_LENGTH
        say(run, value, call=asked[-1])
        work_on(run)

    assert heard == ["first", "first", "second"]
    assert len(set(asked)) == 2
    assert state_of(run) == Run.State.COMPLETED


def test_an_answer_to_a_step_that_is_over_does_not_start_a_run_that_waits_for_another(
    start, define_workflow, script, say, work_on
):
    async def ask(scope):
        await scope.ask_for_data(ITEM, call=scope.context.step)
        return await script._note(scope)

    define_workflow(StepSpec(name="left", agent="first"), StepSpec(name="right", agent="first"))
    script.first = ask
    run = start()
    work_on(run)
    Step.objects.filter(run=run, name="left").update(state=Step.State.FAILED)

    say(run, "too late", call="left")

    assert state_of(run) == Run.State.WAITING
    say(run, "in time", call="right")
    assert state_of(run) == Run.State.QUEUED


def test_answers_that_come_one_after_the_other_are_all_heard(start, define_workflow, script, say, work_on):
    define_workflow(StepSpec(name="left", agent="first"), StepSpec(name="right", agent="first"))

    async def ask(scope):
        await scope.ask_for_data(ITEM, call=scope.context.step)
        return await script._note(scope)

    script.first = ask
    run = start()
    work_on(run)

    assert {start("First"), start("Second")} == {run}
    work_on(run)

    assert state_of(run) == Run.State.COMPLETED
    assert {question.value["text"] for question in Question.objects.all()} == {"First", "Second"}


# --- Sent again ------------------------------------------------------------------------------------------------------


def test_a_message_that_was_an_answer_may_be_sent_again_under_its_key(waiting, heard, start, work_on, thread):
    run = waiting()

    assert start("Here.", key="k") == start("Here.", key="k") == run
    work_on(run)
    assert start("Here.", key="k") == run

    assert told(thread).count("message_created") == 2
    assert told(thread).count("run_queued") == told(thread).count("answer_received") == 1


def test_another_message_under_the_key_of_an_answer_is_refused(waiting, heard, start):
    waiting()
    start("Here.", key="k")

    with pytest.raises(IdempotencyMismatch):
        start("There.", key="k")


def test_one_answer_sent_many_times_at_once_is_one(waiting, heard, start, thread):
    run = waiting()

    assert at_once(*[lambda: start("Here.", key="k")] * 6) == [run] * 6

    assert told(thread).count("message_created") == 2
    assert told(thread).count("answer_received") == told(thread).count("run_queued") == 1


def test_the_question_sent_again_is_not_taken_for_the_answer(start, work_on, heard, thread):
    run = start("Cut my bill.", key="k")
    work_on(run)
    assert state_of(run) == Run.State.WAITING

    assert start("Cut my bill.", key="k") == run

    assert state_of(run) == Run.State.WAITING
    assert told(thread)[-1] == "data_requested"


def test_a_message_whose_key_becomes_that_of_an_answer_while_it_is_being_sent_is_that_answer(
    start, work_on, heard, thread, monkeypatch
):
    run, rivals = start(), []
    insert = services._insert_run

    def slow(*args):
        if not rivals:
            rivals.extend(at_once(lambda: (work_on(run), start("Here.", key="k"))))
        return insert(*args)

    monkeypatch.setattr(services, "_insert_run", slow)

    assert start("Here.", key="k") == run

    assert rivals == [(None, run)]
    assert Run.objects.count() == 1
    assert told(thread).count("message_created") == 2


# --- Leave -----------------------------------------------------------------------------------------------------------


def test_a_tool_that_needs_leave_runs_once_it_is_given(waiting, outcomes, script, say, work_on, thread):
    run = waiting()
    assert told(thread)[-1] == "approval_requested"
    assert script.tool_runs == []
    assert not ToolCall.objects.exists()

    say(run, "approve")
    work_on(run)

    assert script.tool_runs == ["hey"]
    assert outcomes[0].status == "succeeded"
    types = told(thread)
    assert types.index("answer_received") < types.index("tool_executing") < types.index("tool_completed")
    assert state_of(run) == Run.State.COMPLETED


def test_a_tool_that_is_not_given_leave_is_refused_and_the_agent_knows(waiting, outcomes, script, say, work_on):
    run = waiting()

    say(run, "deny")
    work_on(run)

    assert script.tool_runs == []
    assert (outcomes[0].status, outcomes[0].code) == ("refused", "tool.denied")
    assert state_of(run) == Run.State.COMPLETED


@pytest.mark.parametrize("value", ["perhaps", None, "", {"approve": True}, ["approve"], "retry"])
def test_what_is_no_answer_is_refused_with_those_there_are(waiting, outcomes, say, thread, value):
    run = waiting()

    with pytest.raises(Invalid, match="'approve' or 'deny'"):
        say(run, value)

    assert told(thread)[-1] == "approval_requested"
    assert state_of(run) == Run.State.WAITING


def test_data_may_be_anything_but_nothing(waiting, heard, say, work_on):
    run = waiting()

    with pytest.raises(Invalid):
        say(run, None)
    say(run, False)
    work_on(run)

    assert heard == [False]


@pytest.mark.parametrize("value", ["nul \x00 nul", {"a\x00": ["\x00"]}, "half \ud800 of a pair"])
def test_an_answer_that_no_database_stores_is_understood_or_refused(waiting, heard, say, work_on, value):
    run = waiting()

    try:
        say(run, value)
    except Invalid:
        say(run, "plain")
    work_on(run)

    assert len(heard) == 1
    assert state_of(run) == Run.State.COMPLETED


def test_leave_of_one_who_is_no_member_any_more_is_worth_nothing(waiting, outcomes, script, say, work_on, alice):
    run = waiting()
    say(run, "approve")
    Membership.objects.filter(user=alice).update(role=Membership.Role.VIEWER)

    work_on(run)

    assert script.tool_runs == []
    assert outcomes[0].code == "tool.denied"


# --- An effect of which nobody knows ---------------------------------------------------------------------------------


@pytest.fixture
def in_doubt(script, start, work_on):
    """A run whose unsafe tool did its work, and whose worker stopped before it could say so."""
    outcomes, deaths = [], []

    async def act(scope):
        outcomes.append(await scope.tools.execute_tool("hazard", {"text": "boom"}, call="c1"))
        return await script._note(scope)

    def die(arguments):
        if deaths:
            raise deaths.pop()
        return Note(text="it happened")

    def in_doubt(times):
        deaths.extend([OperationalError("the process is gone")] * times)
        run = start()
        work_on(run)
        assert state_of(run) == Run.State.WAITING
        return run

    script.first, script.hazard = act, die
    in_doubt.outcomes = outcomes
    return in_doubt


def test_an_effect_in_doubt_is_brought_about_again_under_the_same_key_when_a_person_says_so(
    in_doubt, script, say, work_on, thread
):
    run = in_doubt(1)
    assert events_of(thread)[-1]["data"]["reason"] == "unknown_effect"
    assert ToolCall.objects.get().state == ToolCall.State.UNKNOWN

    say(run, "retry")
    work_on(run)

    assert script.tool_runs == ["boom", "boom"]
    assert script.effect_keys[0] == script.effect_keys[1] == ToolCall.objects.get().idempotency_key
    assert in_doubt.outcomes[0].status == "succeeded"
    assert told(thread).count("tool_executing") == told(thread).count("tool_completed") == 1
    assert state_of(run) == Run.State.COMPLETED


def test_an_effect_in_doubt_stays_so_when_a_person_lets_it_be(in_doubt, script, say, work_on, thread):
    run = in_doubt(1)

    say(run, "skip")
    work_on(run)

    assert script.tool_runs == ["boom"]
    assert (in_doubt.outcomes[0].status, in_doubt.outcomes[0].code) == ("unknown", "tool.unknown")
    assert ToolCall.objects.get().state == ToolCall.State.UNKNOWN
    assert told(thread).count("tool_executing") == told(thread).count("tool_completed") == 1
    assert state_of(run) == Run.State.COMPLETED


def test_leave_to_bring_an_effect_about_again_is_leave_for_one_time(in_doubt, script, say, work_on, thread):
    run = in_doubt(2)

    say(run, "retry")
    work_on(run)

    assert script.tool_runs == ["boom", "boom"]
    assert state_of(run) == Run.State.WAITING
    assert told(thread).count("approval_requested") == 2
    say(run, "skip")
    work_on(run)
    assert script.tool_runs == ["boom", "boom"]
    assert state_of(run) == Run.State.COMPLETED


def test_a_run_cancelled_in_doubt_leaves_its_call_unknown(in_doubt, as_principal, alice, thread):
    run = in_doubt(1)

    services.cancel_run(principal=as_principal(alice), run_id=run)

    call = ToolCall.objects.get()
    assert call.state == ToolCall.State.UNKNOWN
    assert call.finished_at is not None
    assert told(thread)[-3:] == ["tool_completed", "step_completed", "run_cancelled"]


# --- Nobody answers --------------------------------------------------------------------------------------------------


def test_a_run_that_waited_too_long_ends_and_the_next_one_starts(start, work_on, heard, say, thread, script):
    run, after = start(), start()
    work_on(run)
    Question.objects.update(expires_at=LONG_AGO)

    sweep()

    expired = Run.objects.get(pk=run)
    assert (expired.state, expired.error_code) == (Run.State.FAILED, "run.expired")
    assert events_of(thread)[-1]["data"]["suggestions"] == ["Ask again."]
    assert Step.objects.filter(run=run).exclude(state=Step.State.SKIPPED).count() == 0
    with pytest.raises(NotWaiting):
        say(run, "too late")
    assert admission.admit_one() == after


def test_nothing_expires_before_its_time_nor_after_its_answer(waiting, heard, say, work_on):
    run = waiting()
    sweep()
    assert state_of(run) == Run.State.WAITING
    say(run, "yes")
    Question.objects.update(expires_at=LONG_AGO)

    sweep()
    work_on(run)

    assert state_of(run) == Run.State.COMPLETED


def test_a_run_that_asks_something_else_by_now_does_not_expire_for_what_it_asked_before(waiting, heard, thread, alice):
    run = waiting()

    _expire(run, thread.pk, alice.pk)  # found expired before it was answered, and asks anew

    assert state_of(run) == Run.State.WAITING


def test_a_run_does_not_expire_for_what_was_answered_in_time_while_it_waits_for_something_else(
    start, work_on, script, say
):
    async def ask(scope):
        for call in ("first", "second"):
            await scope.ask_for_data(ITEM, call=call)

    script.first = ask
    run = start()
    work_on(run)
    say(run, "yes")
    work_on(run)
    Question.objects.filter(call="first").update(expires_at=LONG_AGO)

    sweep()

    assert state_of(run) == Run.State.WAITING


def test_a_run_that_is_deleted_before_it_expires_disturbs_nobody(waiting, heard, thread, alice):
    run = waiting()
    thread.delete()

    _expire(run, thread.pk, alice.pk)

    assert not Run.objects.exists()


def test_a_waiting_run_that_is_cancelled_closes_what_it_opened(waiting, heard, as_principal, alice, say, thread):
    run = waiting()

    services.cancel_run(principal=as_principal(alice), run_id=run)

    assert told(thread)[-2:] == ["step_completed", "run_cancelled"]
    assert Thread.objects.get(pk=thread.pk).live_run is None
    assert not Step.objects.filter(run=run).exclude(state=Step.State.SKIPPED).exists()
    with pytest.raises(NotWaiting):
        say(run, "too late")


def test_nothing_can_be_answered_that_was_not_asked(start, work_on, say):
    run = start()

    with pytest.raises(NotWaiting):
        say(run, "yes")
    work_on(run)
    with pytest.raises(NotWaiting):
        say(run, "yes")


def test_a_call_that_the_run_does_not_ask_about_cannot_be_answered(waiting, heard, say):
    run = waiting()

    with pytest.raises(NotWaiting):
        say(run, "yes", call="something else")


# --- Somebody else ---------------------------------------------------------------------------------------------------


def test_only_the_one_who_was_asked_may_answer(waiting, heard, say, bob, charlie, vera, thread):
    run = waiting()

    for stranger in (bob, charlie):
        with pytest.raises(RunNotFound):
            say(run, "yes", user=stranger)
    with pytest.raises(Forbidden):
        say(run, "yes", user=vera)

    assert told(thread)[-1] == "data_requested"
    assert state_of(run) == Run.State.WAITING


def test_answers_over_rest_say_what_became_of_them(waiting, outcomes, client_for, alice, bob, charlie, vera):
    run = waiting()
    url = f"/api/runs/{run}/answer/"

    def answer(user, **body):
        response = client_for(user).post(url, body)
        return response.status_code, response.json().get("code")

    assert answer(bob, value="approve") == answer(charlie, value="approve") == (404, "run.not_found")
    assert answer(vera, value="approve")[0] == 403
    assert answer(None, value="approve")[0] in (401, 403)
    assert answer(alice)[0] == 400
    assert answer(alice, value="perhaps") == (400, "request.invalid")
    assert answer(alice, value="approve", call="c2") == (409, "run.not_waiting")
    assert answer(alice, value="approve", call="c1")[0] == 200
    assert answer(alice, value="approve") == (409, "run.not_waiting")


# --- What leave does not cover ---------------------------------------------------------------------------------------


def test_leave_covers_the_call_that_was_shown_and_no_other(script, waiting, say, work_on):
    wanted = ["harmless", "harmful"]

    async def act(scope):
        await scope.tools.execute_tool("guarded", {"text": wanted.pop(0)}, call="c1")
        return await script._note(scope)

    script.first = act
    run = waiting()

    say(run, "approve")
    work_on(run)

    assert script.tool_runs == []
    assert Run.objects.get(pk=run).error_code == "tool.call_mismatch"


def test_whoever_was_deactivated_meanwhile_calls_no_tool_and_is_no_operator(script, start, work_on, alice):
    seen = []

    async def act(scope):
        answer = await scope.tools.execute_tool("shout", {"text": "hey"}, call="c1")
        seen.append((scope.context.operator, answer.status))
        return await script._note(scope)

    script.first = act
    User.objects.filter(pk=alice.pk).update(is_staff=True)
    run = start()

    User.objects.filter(pk=alice.pk).update(is_active=False)
    work_on(run)

    assert (seen, script.tool_runs) == ([(False, "refused")], [])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_answer_of_which_nothing_can_be_kept_is_refused(waiting, heard, say, value):
    run = waiting()

    with pytest.raises(Invalid, match="value"):
        say(run, value)

    assert Question.objects.get().answered_at is None
    assert state_of(run) == Run.State.WAITING


@pytest.mark.parametrize(("depth", "is_kept"), [(50, True), (51, False), (900, False)])
def test_an_answer_may_be_nested_so_deep_and_no_deeper(waiting, heard, say, depth, is_kept):
    run, value = waiting(), "deep"
    for level in range(depth):
        value = [value] if level % 2 else {"in": value}

    if is_kept:
        say(run, value)
        assert Question.objects.get().value == value
    else:
        with pytest.raises(Invalid, match="nested"):
            say(run, value)


def test_a_viewer_cannot_stop_a_run(start, as_principal, alice):
    run = start()
    Membership.objects.filter(user=alice).update(role=Membership.Role.VIEWER)

    with pytest.raises(Forbidden):
        services.cancel_run(principal=as_principal(alice), run_id=run)

    assert state_of(run) == Run.State.QUEUED
