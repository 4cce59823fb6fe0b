"""Tools in processes of their own: handed over, lost in the middle, cut off, and held to their limits."""

import asyncio
import json
import mmap
import os
import threading
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from django.conf import settings
from django.db import OperationalError, connection
from django.utils import timezone
from pydantic import BaseModel
from uuid6 import uuid7

from apps.accounts.models import Membership, User
from apps.conversations.journal import Fenced
from apps.conversations.models import Question, Run, Step, ToolCall
from apps.execution import admission, calls, claims, doorbell, services, tool_worker
from apps.execution.calls import DEADLY
from apps.execution.mailbox import mailbox
from apps.execution.registry import Agent, Effect, Interruption, Place, Postponed, Tool, agents, tools
from apps.execution.sweep import sweep
from apps.execution.tool_runs import breaker_of
from apps.operations.breakers import breakers
from apps.resilience.circuit import State
from tests.execution.conftest import (
    LONG_AGO,
    Note,
    assert_well_told,
    attempt,
    beat,
    events_of,
    state_of,
    step_of,
    told,
    wait_until,
)

pytestmark = pytest.mark.django_db(transaction=True)


class Login(BaseModel):
    text: str = "hey"
    password: str = "hunter2"


class Process:
    """A tool worker: what it was rung for, and what its tools do."""

    def __init__(self) -> None:
        self.id = beat(uuid7())
        self.rung: list[int] = []
        self.limits: list[float] = []
        self.seen: list[object] = []
        self.asleep = False
        self._threads: list[threading.Thread] = []
        self.work = lambda arguments: Note(text=arguments.text.upper())

    def ring(self, call_id: int, *, time_limit: float) -> None:
        self.rung.append(call_id)
        self.limits.append(time_limit)
        if not self.asleep:
            self.begin(call_id)

    def begin(self, call_id: int, worker: UUID | None = None) -> None:
        self._threads.append(threading.Thread(target=self._run, args=[call_id, worker or self.id]))
        self._threads[-1].start()

    def _run(self, call_id: int, worker: UUID) -> None:
        try:
            tool_worker.run_call(call_id, worker=worker)
        finally:
            connection.close()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(20)


@pytest.fixture
def process(script, monkeypatch, silence_is_heard):
    """A tool worker that runs on threads of the test; rings for agents are heard by nobody."""
    process = Process()

    async def run(context, arguments):
        process.seen.append(context)
        return await asyncio.to_thread(process.work, arguments)

    async def query(context, arguments):
        process.seen.append("asked")
        return Note(text="it had happened")

    for name, effect in (("far", Effect.PURE), ("far_unsafe", Effect.UNSAFE), ("far_queryable", Effect.QUERYABLE)):
        tools.register(
            Tool(
                name=name,
                description="",
                arguments=Login,
                run=run,
                query=query if effect == Effect.QUERYABLE else None,
                summarize=lambda result: result.text,
                effect=effect,
                place=Place.WORKER,
                deadline=30.0,
            )
        )
    names = ("far", "far_unsafe", "far_queryable")
    agents._items["first"] = Agent(
        name="first", description="", artifact=Note, run=agents.get("first").run, tools=names
    )

    def send(task, argument, **options):
        if task == doorbell.RUN_TOOL:
            process.ring(argument, **options)

    monkeypatch.setattr(doorbell, "_send", send)
    yield process
    process.join()


@pytest.fixture
def outcomes(script):
    """The first agent calls a tool; how that went."""
    outcomes = []

    async def act(scope):
        outcomes.append(await scope.tools.execute_tool(outcomes_of.tool, {}, call="c1"))
        return await script._note(scope)

    class Outcomes(list):
        tool = "far"

    outcomes = outcomes_of = Outcomes()
    script.first = act
    return outcomes


@pytest.fixture
def begun(start, worker, process):
    """A run whose first step has opened its call, and the attempt that waits for it."""

    def begun(tool):
        run = start()
        admission.admit_one()
        context = claims.claim_step(run, worker=beat(worker)).context
        row = calls.open_call(context, tools.get(tool), Login().model_dump(), "c1").row
        return context, row

    return begun


def claim(row, process):
    """Have a tool worker take the call, and say nothing more."""
    return tool_worker._claim(look(row), tools.get(row.tool), process)


def look(row):
    return ToolCall.objects.get(pk=row.pk)


def time_passes(run):
    for rows in (Run.objects.filter(pk=run), Step.objects.filter(run=run), ToolCall.objects.filter(run=run)):
        rows.update(rung_at=LONG_AGO)
    Run.objects.filter(pk=run).update(not_before=LONG_AGO)
    Step.objects.filter(run=run, state="ready").update(not_before=LONG_AGO)


# --- From one process to the other -----------------------------------------------------------------------------------


def test_a_call_goes_to_a_tool_worker_and_its_result_comes_back(process, outcomes, start, work_on, thread, alice):
    run = start()

    work_on(run)

    assert outcomes[0].result == {"text": "HEY"}
    assert state_of(run) == Run.State.COMPLETED
    call = ToolCall.objects.get()
    assert (call.state, call.worker, call.attempt) == ("succeeded", process.id, 1)
    assert process.rung == [call.pk]
    assert process.limits == [30.0 + calls.GRACE]
    context = process.seen[0]
    assert (context.principal.user_id, context.effect_key) == (alice.pk, call.idempotency_key)
    assert (context.run_id, context.step, context.depth) == (run, "one", 1)
    assert_well_told(thread)


def test_a_call_in_a_tool_worker_says_how_long_it_took(process, outcomes, start, work_on, thread):
    work_on(start())

    (completed,) = [event for event in events_of(thread) if event["type"] == "tool_completed"]
    assert completed["data"]["seconds"] >= 0
    assert completed["attempt"] == 1


def test_secrets_travel_to_the_tool_and_are_gone_when_it_has_ended(process, outcomes, start, work_on, thread):
    kept = []

    def work(arguments):
        kept.append(ToolCall.objects.get().payload)
        connection.close()
        return Note(text=str(arguments.password == "hunter2"))

    process.work = work

    work_on(start())

    assert outcomes[0].result == {"text": "True"}
    assert kept == [{"text": "hey", "password": "hunter2"}]
    assert ToolCall.objects.get().payload is None
    assert "hunter2" not in str(events_of(thread)) + str(ToolCall.objects.values())


def test_secrets_of_a_call_that_was_cut_off_are_gone_too(begun, as_principal, alice):
    context, row = begun("far")
    assert look(row).payload is not None

    services.cancel_run(principal=as_principal(alice), run_id=context.run_id)

    assert look(row).payload is None


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (ValueError("secret"), "tool.failed"),
        (MemoryError(), "tool.memory"),
        (Interruption(Postponed(seconds=1, reason="later")), "tool.interrupted"),
    ],
)
def test_a_tool_that_fails_in_its_process_is_an_answer(process, outcomes, start, work_on, raised, code):
    def fail(arguments):
        raise raised

    process.work = fail

    work_on(start())

    assert (outcomes[0].status, outcomes[0].code) == ("failed", code)
    assert "secret" not in outcomes[0].detail


def test_a_lost_ring_is_rung_again(process, outcomes, begun):
    process.asleep = True
    _, row = begun("far")
    ToolCall.objects.update(rung_at=LONG_AGO)

    sweep()

    assert process.rung == [row.pk, row.pk]


def test_however_often_a_call_is_rung_for_it_is_run_once(process, outcomes, start, work_on):
    def work(arguments):
        for _ in range(3):
            process.begin(process.rung[0], beat(uuid7()))
        return Note(text="once")

    process.work = work

    work_on(start())
    process.join()

    assert len(process.seen) == 1


def test_a_call_that_its_process_could_not_close_is_not_made_again_by_a_second_ring(asleep, begun):
    _, row = begun("far_unsafe")
    claim(row, asleep.id)

    tool_worker.run_call(row.pk, worker=asleep.id)

    assert asleep.seen == []
    assert (look(row).state, look(row).attempt) == ("started", 1)


def test_a_claim_of_which_no_more_was_heard_is_found_again(asleep, begun):
    _, row = begun("far")
    first, second = (tool_worker._claim(row, tools.get("far"), asleep.id) for _ in range(2))

    assert (first.attempt, second.attempt) == (1, 1)


def test_a_call_that_does_not_exist_or_is_of_another_release_is_left_alone(process, begun):
    process.asleep = True
    _, row = begun("far")
    del tools._items["far"]

    tool_worker.run_call(row.pk, worker=process.id)
    tool_worker.run_call(0, worker=process.id)

    assert look(row).state == ToolCall.State.INTENDED


# --- Lost in the middle ----------------------------------------------------------------------------------------------


@pytest.fixture
def asleep(process):
    process.asleep = True
    return process


def test_a_harmless_call_whose_worker_died_is_made_again(asleep, begun, thread):
    context, row = begun("far")
    claim(row, uuid7())

    sweep()
    taken_back = look(row)
    assert (taken_back.state, taken_back.worker, taken_back.losses) == ("intended", None, 1)
    tool_worker.run_call(row.pk, worker=asleep.id)

    again = calls.open_call(context, tools.get("far"), Login().model_dump(), "c1").row
    assert (again.state, again.attempt) == ("succeeded", 2)
    assert told(thread).count("tool_executing") == told(thread).count("tool_completed") == 1


def test_a_call_of_a_living_worker_is_left_to_it(asleep, begun):
    _, row = begun("far")
    claim(row, asleep.id)

    sweep()

    assert look(row).state == ToolCall.State.STARTED


def test_a_call_that_can_be_asked_about_is_asked_about_before_it_is_made_again(asleep, begun):
    _, row = begun("far_queryable")
    claim(row, uuid7())
    sweep()

    tool_worker.run_call(row.pk, worker=asleep.id)

    assert asleep.seen == ["asked"]
    assert look(row).result == {"text": "it had happened"}


@pytest.mark.parametrize("overdue", [False, True])
@pytest.mark.parametrize(("decision", "runs", "status"), [("retry", 1, "succeeded"), ("skip", 0, "unknown")])
def test_an_unsafe_call_whose_worker_died_is_a_persons_to_decide(
    process, outcomes, start, work_on, thread, as_principal, alice, decision, runs, status, overdue
):
    outcomes.tool = "far_unsafe"
    begin, key = process.begin, []

    def die(call_id):
        row = ToolCall.objects.get(pk=call_id)
        key.append(claim(row, uuid7()).effect_key)
        if overdue:
            ToolCall.objects.update(deadline_at=LONG_AGO)
        sweep()

    process.begin = die
    run = start()
    work_on(run)
    assert state_of(run) == Run.State.WAITING
    assert Question.objects.get().reason == "unknown_effect"
    assert look(ToolCall.objects.get()).state == ToolCall.State.UNKNOWN
    process.begin = begin

    services.answer_run(principal=as_principal(alice), run_id=run, call="c1", value=decision)
    work_on(run)

    assert len(process.seen) == runs
    assert outcomes[0].status == status
    if runs:
        assert process.seen[0].effect_key == key[0]
    assert state_of(run) == Run.State.COMPLETED
    assert_well_told(thread)


def test_a_call_that_takes_three_workers_with_it_is_given_no_fourth(asleep, begun, thread):
    _, row = begun("far")
    for _ in range(DEADLY):
        assert look(row).state == ToolCall.State.INTENDED
        claim(row, uuid7())
        sweep()

    crashed = look(row)
    assert (crashed.state, crashed.error_code) == ("failed", "tool.crashed")
    assert claim(row, asleep.id) is None
    assert told(thread)[-1] == "tool_completed"


@pytest.mark.parametrize(("seconds", "state"), [(1, "started"), (calls.GRACE + 6, "failed")])
def test_a_call_past_its_deadline_is_taken_from_a_living_worker_once_its_process_must_be_gone(
    asleep, begun, seconds, state
):
    _, row = begun("far")
    claim(row, asleep.id)
    ToolCall.objects.update(deadline_at=timezone.now() - timedelta(seconds=seconds))

    sweep()

    late = look(row)
    assert late.state == state
    assert late.error_code == ("tool.deadline" if state == "failed" else "")


def test_a_tool_that_loses_the_database_gives_its_call_back_at_once(asleep, begun):
    def lose(arguments):
        raise OperationalError("the server closed the connection")

    asleep.work = lose
    _, row = begun("far")

    tool_worker.run_call(row.pk, worker=asleep.id)

    given_back = look(row)
    assert (given_back.state, given_back.losses) == ("intended", 1)


def test_arguments_that_do_not_fit_any_more_end_the_call(asleep, begun):
    _, row = begun("far")
    ToolCall.objects.update(payload={"text": ["of", "another", "release"]})

    for _ in range(DEADLY):
        tool_worker.run_call(row.pk, worker=asleep.id)

    assert look(row).state == ToolCall.State.FAILED


def test_one_who_takes_a_call_back_takes_none_that_somebody_has_taken_up_meanwhile(asleep, begun, monkeypatch):
    """Between the look at what is lost and the taking back, another worker may have it."""
    _, row = begun("far")
    claim(row, uuid7())
    sweep()
    fetched, quick = ToolCall.objects.get(pk=row.pk), beat(uuid7())
    ToolCall.objects.filter(pk=row.pk).update(state="started", worker=uuid7())
    taken_back = calls.take_back

    def slow(call_id, *, attempt):
        ToolCall.objects.filter(pk=row.pk).update(state="intended")
        assert claim(fetched, quick).attempt == 2
        taken_back(call_id, attempt=attempt)

    monkeypatch.setattr(calls, "take_back", slow)

    sweep()

    held = look(row)
    assert (held.state, held.worker, held.attempt) == ("started", quick, 2)


# --- Cut off ---------------------------------------------------------------------------------------------------------


def test_a_tool_whose_run_was_cancelled_can_say_nothing_any_more(asleep, begun, as_principal, alice, thread):
    context, row = begun("far")

    def work(arguments):
        services.cancel_run(principal=as_principal(alice), run_id=context.run_id)
        connection.close()
        return Note(text="too late")

    asleep.work = work
    tool_worker.run_call(row.pk, worker=asleep.id)

    cut_off = look(row)
    assert (cut_off.state, cut_off.result, cut_off.error_code) == ("failed", None, "tool.cut_off")
    assert told(thread)[-3:] == ["tool_completed", "step_completed", "run_cancelled"]
    assert_well_told(thread)


def test_a_call_of_an_ended_run_is_begun_by_nobody(asleep, begun, as_principal, alice):
    context, row = begun("far")
    services.cancel_run(principal=as_principal(alice), run_id=context.run_id)

    tool_worker.run_call(row.pk, worker=asleep.id)

    assert asleep.seen == []


def test_an_effect_that_may_have_happened_is_never_said_to_have_failed(asleep, begun, as_principal, alice, thread):
    """Neither when the run is cancelled at work, nor between a loss and the retry that a person wanted."""
    context, row = begun("far_unsafe")
    claim(row, uuid7())
    sweep()
    ToolCall.objects.filter(pk=row.pk).update(state="intended", worker=None)

    services.cancel_run(principal=as_principal(alice), run_id=context.run_id)

    assert look(row).state == ToolCall.State.UNKNOWN
    assert_well_told(thread)


def test_a_call_that_is_begun_in_the_moment_in_which_its_run_is_cancelled_is_not_said_to_have_failed(
    asleep, begun, as_principal, alice
):
    for _ in range(10):
        context, row = begun("far_unsafe")
        barrier, claimed = threading.Barrier(2), []

        def take(row=row, barrier=barrier, claimed=claimed):
            barrier.wait(10)
            claimed.append(claim(row, asleep.id))
            connection.close()

        taking = threading.Thread(target=take)
        taking.start()
        barrier.wait(10)
        services.cancel_run(principal=as_principal(alice), run_id=context.run_id)
        taking.join(10)

        begun_at_all = claimed[0] is not None
        assert look(row).state == (ToolCall.State.UNKNOWN if begun_at_all else ToolCall.State.FAILED)


def test_a_step_that_ends_while_its_call_is_at_work_closes_it(asleep, begun, start, worker, thread, script):
    context, row = begun("far")
    claim(row, asleep.id)
    claims.release(context)

    attempt(claims.claim_step(context.run_id, worker=beat(worker)))

    assert look(row).error_code == "tool.cut_off"
    assert step_of(context.run_id, "one").state == Step.State.COMPLETED


def test_a_step_that_is_rescued_while_its_tool_goes_on_elsewhere_gets_that_result(
    process, outcomes, start, work_on, worker, thread
):
    at_work, go_on = threading.Event(), threading.Event()

    def work(arguments):
        at_work.set()
        assert go_on.wait(20)
        return Note(text="in time")

    process.work = work
    run = start()
    admission.admit_one()
    lost = claims.claim_step(run, worker=uuid7()).context
    calls.open_call(lost, tools.get("far"), Login().model_dump(), "c1")
    assert at_work.wait(10)
    sweep()
    rescuing = threading.Thread(target=lambda: (work_on(run), connection.close()))
    rescuing.start()
    wait_until(lambda: step_of(run, "one").attempt == 2)
    go_on.set()
    rescuing.join(20)

    assert outcomes[0].result == {"text": "in time"}
    assert len(process.seen) == 1
    assert ToolCall.objects.get().losses == 0
    assert state_of(run) == Run.State.COMPLETED
    assert_well_told(thread)


# --- Limits ----------------------------------------------------------------------------------------------------------


def in_a_child(work):
    """What `work` answers in a child of this process, which ends at once afterwards."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        answer = json.loads(told.read())
    os.waitpid(child, 0)
    return answer


def memory_in_use():
    """Of this process, in MiB, as its limit counts it: what a child of it has from the start."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData")]
    return int(line.split()[1]) // 1024


def test_a_process_gets_only_so_much_memory_and_goes_on_without_more(settings):
    settings.TOOL_MEMORY_MIB = memory_in_use() + 256

    def allocate():
        tool_worker.limit_memory()
        try:
            bytearray(2 * 1024**3)
        except MemoryError:
            return ["refused", len(bytearray(1024**2))]
        return ["allowed"]

    assert in_a_child(allocate) == ["refused", 1024**2]


def test_without_a_limit_there_would_be_more():
    assert settings.TOOL_MEMORY_MIB * 1024**2 < 2 * 1024**3
    # Reserved and not filled, which takes as much of the limit and no time.
    assert in_a_child(lambda: len(mmap.mmap(-1, 2 * 1024**3))) == 2 * 1024**3


# --- Rights lost meanwhile -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["removed", "made a viewer", "deactivated"])
def test_a_call_is_refused_when_its_user_lost_the_right_before_it_began(process, begun, alice, thread, lost):
    process.asleep = True
    _, row = begun("far_unsafe")
    places = Membership.objects.filter(user=alice)
    match lost:
        case "removed":
            places.delete()
        case "made a viewer":
            places.update(role=Membership.Role.VIEWER)
        case "deactivated":
            User.objects.filter(pk=alice.pk).update(is_active=False)

    process.begin(row.pk)
    process.join()

    assert process.seen == []
    row = look(row)
    assert (row.state, row.error_code, row.payload) == ("refused", "tool.denied", None)
    assert events_of(thread)[-1]["data"]["status"] == "refused"


@pytest.mark.parametrize(
    "name", ["api-key", "X-Api-Key", "apiKey", "passwd", "credentials", "private_key", "accessKey", "Cookie", "bearer"]
)
def test_whatever_is_named_like_a_secret_is_masked(name):
    assert calls.masked({"headers": [{name: "hunter2", "kept": 1}]}) == {"headers": [{name: "***", "kept": 1}]}


def test_a_process_that_has_lost_its_call_cannot_close_it_for_the_one_that_has_it_now(begun, process, thread):
    process.asleep = True
    _, row = begun("far")
    claim(row, process.id)
    lost = look(row)
    calls.take_back(row.pk, attempt=lost.attempt)
    claim(row, beat(uuid7()))
    late = calls.Result(status="succeeded", result={"text": "HEY"}, summary="HEY")

    with pytest.raises(Fenced):
        calls.close_call_at_worker(lost, late, thread=thread.pk, step_attempt=1)

    assert (look(row).state, look(row).attempt) == ("started", 2)
    assert "tool_completed" not in told(thread)


# --- Out of order ----------------------------------------------------------------------------------------------------


@pytest.fixture
def break_down(process):
    """The breaker opens when the call has been handed over, and before its process can begin."""

    def ring(call_id, *, time_limit):
        process.rung.append(call_id)
        if len(process.rung) == 1:
            breakers().force_open("tool:far")
            wait_until(lambda: breaker_of(tools.get("far")).state == State.FORCED_OPEN)
        process.begin(call_id)

    process.ring = ring


def test_a_breaker_that_opens_after_the_hand_over_puts_the_step_off_and_frees_its_place(
    break_down, process, outcomes, start, work_on, thread
):
    run = start()

    work_on(run)

    step = step_of(run, "one")
    assert (state_of(run), step.state) == (Run.State.QUEUED, Step.State.READY)
    assert timedelta(seconds=50) < step.not_before - timezone.now() < timedelta(seconds=61)
    assert "far" in step.reason
    assert outcomes == process.seen == []


def test_a_call_that_was_put_off_is_made_when_its_run_goes_on_and_not_before(
    break_down, process, outcomes, start, work_on, worker, thread
):
    beat(worker)
    run = start()
    work_on(run)
    breakers().reset("tool:far")
    wait_until(lambda: breaker_of(tools.get("far")).state == State.CLOSED)

    time_passes(run)
    sweep()
    process.begin(ToolCall.objects.get().pk)
    process.join()
    assert (process.seen, len(process.rung)) == ([], 1)

    working = threading.Thread(target=lambda: (work_on(run), connection.close()))
    working.start()
    wait_until(lambda: state_of(run) == Run.State.RUNNING)

    def made():
        sweep()  # again and again, as in a house: the step may not have come to its call when the first one looks
        process.join()
        return process.seen

    wait_until(made)
    working.join(20)  # no sweep beside it: nobody would hear the ring for a step that one had locked

    assert (state_of(run), outcomes[0].result) == (Run.State.COMPLETED, {"text": "HEY"})
    assert len(process.seen) == 1
    assert_well_told(thread)


def test_an_attempt_that_is_called_off_keeps_no_news_from_the_next_that_waits_for_the_same_call(begun, process):
    """The earlier one may not have been called off when the later one begins to wait, in the same process."""
    process.asleep = True
    _, row = begun("far")

    async def wait():
        earlier, later = (asyncio.create_task(mailbox().settled(row.pk)) for _ in range(2))
        await asyncio.sleep(0)
        earlier.cancel()
        await asyncio.to_thread(finish)
        await asyncio.wait_for(later, 10)
        return earlier.cancelled()

    def finish():
        ToolCall.objects.filter(pk=row.pk).update(state="succeeded", finished_at=timezone.now())
        connection.close()

    assert asyncio.run(wait())
