"""Who holds a step: workers that beat, that fall silent, zombies that wake, and steps that break whatever runs them."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection, transaction
from uuid6 import uuid7

from apps.accounts.models import User
from apps.conversations import journal
from apps.conversations.journal import Fact, Fenced
from apps.conversations.models import Message, Run, Step, ToolCall
from apps.conversations.services import create_thread
from apps.execution import admission, calls, claims, services, worker
from apps.execution.engine import MOST_BARREN, MOST_LOSSES, ExecutionEngine
from apps.execution.heartbeat import Heartbeat
from apps.execution.models import WorkerProcess
from apps.execution.orchestrator import WorkflowOrchestrator
from apps.execution.registry import Completed, StepSpec, tools
from apps.execution.scope import save_answer
from apps.execution.sweep import sweep
from apps.operations.database import in_database
from tests.execution.conftest import LONG_AGO, Note, attempt, beat, events_of, state_of, step_of, told, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

THOUGHT = Fact("agent_thinking", {"thought": "hm", "progress": 10})
DONE = Completed(artifact=Note(), summary="done")


@pytest.fixture(autouse=True)
def _scripted(script, rings, silence_is_heard):
    """Every test here runs scripted agents, on a database that has been up for a while."""


@pytest.fixture
def started(start):
    """A run that has been admitted."""
    run = start()
    assert admission.admit_one() == run
    return run


@pytest.fixture
def side_by_side(define_workflow, start):
    """A run of two steps that are ready at once, and one that waits for both."""
    define_workflow(
        StepSpec(name="left", agent="first"),
        StepSpec(name="right", agent="first"),
        StepSpec(name="join", agent="second", depends_on=("left", "right")),
    )
    run = start()
    admission.admit_one()
    return run


def fall_silent(process):
    WorkerProcess.objects.filter(pk=process).update(beat_at=LONG_AGO)


def lose(run):
    """Claim a step of the run, and have the worker die with it."""
    claim = claims.claim_step(run, worker=uuid7())
    sweep()
    return claim


# --- Rescue ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("death", ["never beat", "fell silent"])
def test_a_step_of_a_silent_worker_is_rescued_and_told(started, thread, rings, death):
    process = uuid7() if death == "never beat" else beat(uuid7())
    claims.claim_step(started, worker=process)
    fall_silent(process)
    rings.clear()

    assert sweep() == 1

    assert rings == [started]
    rescued = step_of(started, "one")
    assert (rescued.state, rescued.worker, rescued.losses) == (Step.State.READY, None, 1)
    claims.claim_step(started, worker=beat(uuid7()))
    recovering = events_of(thread)[-1]
    assert recovering["type"] == "run_recovering"
    assert recovering["attempt"] == recovering["data"]["attempt"] == 2
    assert "the worker stopped" in recovering["data"]["reason"]


def test_a_process_that_stands_still_with_its_users_row_holds_up_nobodys_rescue(started, start, as_principal, bob):
    lost = claims.claim_step(started, worker=uuid7())
    start(user=bob, thread_id=create_thread(principal=as_principal(bob)).pk)
    Run.objects.update(rung_at=LONG_AGO)

    def look():
        try:
            return sweep()
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as somebody_else, transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=bob.pk)
        assert somebody_else.submit(look).result(20) == 2

    assert step_of(started, lost.context.step).state == Step.State.READY


def test_a_step_is_rescued_once_however_many_look(started):
    claims.claim_step(started, worker=uuid7())

    assert [sweep() for _ in range(3)] == [1, 0, 0]
    assert step_of(started, "one").losses == 1


def test_a_rescued_step_ends_as_if_nothing_had_happened(started, work_on, thread):
    lose(started)

    work_on(started)

    assert state_of(started) == Run.State.COMPLETED
    assert told(thread).count("agent_started") == 1
    assert told(thread).count("step_started") == told(thread).count("step_completed") == 2


def test_a_step_of_a_living_worker_is_left_alone_until_it_is_overdue(started):
    claims.claim_step(started, worker=beat(uuid7()))

    def past_its_deadline(seconds):
        with connection.cursor() as cursor:
            cursor.execute(
                "update conversations_step set deadline_at = clock_timestamp() - %s * interval '1 second'", [seconds]
            )

    assert sweep() == 0
    past_its_deadline(1)
    assert sweep() == 0
    past_its_deadline(6)
    assert sweep() == 1
    assert "in time" in step_of(started, "one").reason


def test_steps_of_living_workers_go_on_beside_a_rescue(side_by_side, thread):
    mine = claims.claim_step(side_by_side, worker=beat(uuid7()))
    lost = claims.claim_step(side_by_side, worker=uuid7())

    assert sweep() == 1

    assert state_of(side_by_side) == Run.State.RUNNING
    journal.append(mine.context.fence, THOUGHT)
    attempt(mine)
    assert step_of(side_by_side, mine.context.step).attempt == 1
    assert step_of(side_by_side, lost.context.step).state == Step.State.READY


def test_steps_of_runs_that_wait_or_have_ended_are_nobodys_to_rescue(started, as_principal, alice):
    claims.claim_step(started, worker=uuid7())
    services.cancel_run(principal=as_principal(alice), run_id=started)

    assert sweep() == 0
    assert step_of(started, "one").attempt == 1


def test_the_running_step_of_an_ended_run_is_buried_once_its_worker_is_silent(started, as_principal, alice):
    process = beat(uuid7())
    claims.claim_step(started, worker=process)
    services.cancel_run(principal=as_principal(alice), run_id=started)

    sweep()
    assert step_of(started, "one").state == Step.State.RUNNING
    fall_silent(process)
    sweep()

    assert step_of(started, "one").state == Step.State.SKIPPED


def test_a_step_given_back_after_its_run_has_ended_is_over(started, as_principal, alice):
    held = claims.claim_step(started, worker=beat(uuid7())).context
    services.cancel_run(principal=as_principal(alice), run_id=started)

    claims.release(held)

    assert step_of(started, "one").state == Step.State.SKIPPED


def test_a_step_that_was_given_back_while_its_run_ended_is_buried(started, as_principal, alice):
    claims.claim_step(started, worker=beat(uuid7()))
    services.cancel_run(principal=as_principal(alice), run_id=started)
    Step.objects.filter(run=started, name="one").update(state=Step.State.READY, worker=None)

    sweep()

    assert step_of(started, "one").state == Step.State.SKIPPED


# --- Zombies ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["rescued", "rescued and taken up", "run cancelled"])
def zombie(request, started, as_principal, alice):
    """The context of a worker that lost its step, and the row of a tool call that it had open."""
    claim = claims.claim_step(started, worker=uuid7())
    row = calls.open_call(claim.context, tools.get("shout"), {"text": "hey"}, "c1").row
    if request.param == "run cancelled":
        services.cancel_run(principal=as_principal(alice), run_id=started)
    else:
        sweep()
    if request.param == "rescued and taken up":
        claims.claim_step(started, worker=beat(uuid7()))
    return claim, row


@pytest.mark.parametrize(
    "deed",
    [
        lambda claim, row: journal.append(claim.context.fence, THOUGHT),
        lambda claim, row: calls.close_call(claim.context, row, calls.Result(status="succeeded", summary="HEY")),
        lambda claim, row: calls.open_call(claim.context, tools.get("shout"), {"text": "you"}, "c2"),
        lambda claim, row: WorkflowOrchestrator(claim).settle(DONE),
        lambda claim, row: save_answer(claim.context, "Not mine to give."),
    ],
    ids=["append", "close a call", "open a call", "settle", "write the answer"],
)
def test_what_a_zombie_does_is_fenced_and_stores_nothing(zombie, deed, thread):
    def everything():
        steps = Step.objects.order_by("id").values()
        return [list(rows) for rows in (steps, ToolCall.objects.order_by("id").values(), Message.objects.values())]

    claim, row = zombie
    events, rows = events_of(thread), everything()

    with pytest.raises(Fenced):
        deed(claim, row)

    assert events_of(thread) == events
    assert everything() == rows


@pytest.mark.parametrize("zombie", ["rescued", "rescued and taken up"], indirect=True)
def test_a_zombie_cannot_give_away_what_is_not_its_own(zombie):
    claim, _ = zombie
    before = Step.objects.filter(pk=claim.context.step_id).values().get()

    assert not claims.release(claim.context)
    claims.abandon(claim.context)

    assert Step.objects.filter(pk=claim.context.step_id).values().get() == before


def test_a_zombie_cannot_throw_doubt_on_a_call_that_another_attempt_makes(started, thread):
    zombie = claims.claim_step(started, worker=uuid7()).context
    calls.open_call(zombie, tools.get("hazard"), {"text": "boom"}, "c1")
    sweep()
    claims.claim_step(started, worker=beat(uuid7()))
    seen = events_of(thread)

    with pytest.raises(Fenced):
        calls.open_call(zombie, tools.get("hazard"), {"text": "boom"}, "c1")

    assert ToolCall.objects.get().state == ToolCall.State.STARTED
    assert events_of(thread) == seen


# --- Poison ----------------------------------------------------------------------------------------------------------


def test_a_step_that_takes_three_workers_with_it_without_getting_further_is_given_no_fourth(started, work_on, thread):
    for _ in range(MOST_BARREN):
        assert step_of(started, "one").losses == step_of(started, "one").barren_losses
        lose(started)

    work_on(started)

    end = events_of(thread)[-1]["data"]
    assert end["code"] == "run.poisoned"
    assert len(end["suggestions"]) == 2
    assert not end["retryable"]
    assert end["support_id"]
    assert step_of(started, "one").attempt == MOST_BARREN + 1


def test_progress_between_losses_buys_time_but_not_for_ever(started, work_on, thread):
    for number in range(MOST_LOSSES):
        claim = claims.claim_step(started, worker=uuid7())
        assert claim.barren_losses <= 1
        row = calls.open_call(claim.context, tools.get("shout"), {"text": "hey"}, f"c{number}").row
        calls.close_call(claim.context, row, calls.Result(status="succeeded", summary="HEY"))
        sweep()

    work_on(started)

    assert events_of(thread)[-1]["data"]["code"] == "run.poisoned"
    assert step_of(started, "one").losses == MOST_LOSSES


def test_losses_are_counted_per_step(started, work_on):
    for _ in range(MOST_BARREN - 1):
        lose(started)
    attempt(claims.claim_step(started, worker=beat(uuid7())))
    for _ in range(MOST_BARREN - 1):
        lose(started)

    work_on(started)

    assert state_of(started) == Run.State.COMPLETED


def test_a_hand_over_is_told_and_is_no_loss(started, work_on, thread):
    for _ in range(MOST_LOSSES + 1):
        claims.release(claims.claim_step(started, worker=beat(uuid7())).context)

    work_on(started)

    assert state_of(started) == Run.State.COMPLETED
    assert told(thread).count("run_recovering") == MOST_LOSSES + 1


# --- Beating ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def heartbeats():
    beating = []

    def make(**more):
        beating.append(Heartbeat(uuid7(), kind=WorkerProcess.Kind.AGENTS, **more))
        return beating[-1]

    yield make
    for heartbeat in beating:
        heartbeat.stop()


def beats():
    return list(WorkerProcess.objects.values_list("beat_at", flat=True))


def test_a_process_is_known_as_soon_as_it_has_started_and_forgotten_when_it_has_stopped(heartbeats):
    heartbeat = heartbeats()

    heartbeat.start()
    assert len(beats()) == 1
    heartbeat.stop()

    assert beats() == []


def test_a_process_goes_on_beating(heartbeats):
    heartbeats().start()
    (first,) = beats()

    wait_until(lambda: beats()[0] > first)


def test_a_process_that_is_not_well_is_silent_until_it_is_again(heartbeats):
    well, looks = threading.Event(), []
    heartbeats(is_well=lambda: (looks.append(1), well.is_set())[1]).start()

    wait_until(lambda: len(looks) > 1)
    assert beats() == []
    well.set()

    wait_until(lambda: len(beats()) == 1)


def test_a_process_whose_connection_is_cut_beats_again_on_another(heartbeats):
    heartbeats().start()
    (first,) = beats()
    with connection.cursor() as cursor:
        cursor.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where query like '%%execution_workerprocess%%' "
            "and pid <> pg_backend_pid() and datname = current_database()"
        )

    wait_until(lambda: beats()[0] > first)


def test_a_stopped_process_is_never_ended_by_its_own_watch(monkeypatch, heartbeats):
    """A beat in the middle of which the process stops must not set the watch again."""
    armed, in_the_middle, go_on = [], threading.Event(), threading.Event()
    monkeypatch.setattr("faulthandler.dump_traceback_later", lambda *_, **__: armed.append(1))
    monkeypatch.setattr("faulthandler.cancel_dump_traceback_later", armed.clear)
    rounds = []

    def is_well():
        rounds.append(1)
        if len(rounds) == 2:
            in_the_middle.set()
            assert go_on.wait(10)
        return True

    heartbeat = heartbeats(is_well=is_well)
    heartbeat.start()
    assert in_the_middle.wait(10)
    stopping = threading.Thread(target=heartbeat.stop)
    stopping.start()
    wait_until(heartbeat._stopped.is_set)
    go_on.set()
    stopping.join(10)

    assert armed == []


# --- The loop of a worker --------------------------------------------------------------------------------------------


@pytest.fixture
def loop(settings):
    settings.DRAIN_SECONDS = 0
    loop = worker.WorkerLoop()
    yield loop
    loop.stop()


def test_a_worker_loop_is_alive_while_it_runs(loop):
    assert WorkerProcess.objects.filter(pk=loop.id, kind="agents").exists()


def test_a_cancelled_runs_worker_is_called_off_and_its_step_is_over(started, loop, script, as_principal, alice):
    working, called_off = threading.Event(), threading.Event()

    async def work(scope):
        working.set()
        try:
            await asyncio.Event().wait()
        finally:
            called_off.set()

    script.first = work
    loop.wake(started)
    assert working.wait(10)

    services.cancel_run(principal=as_principal(alice), run_id=started)

    assert called_off.wait(10)
    wait_until(lambda: not ExecutionEngine.running())
    assert step_of(started, "one").state == Step.State.SKIPPED


def test_a_worker_that_looks_at_what_is_still_its_own_stops_nothing_that_it_took_up_meanwhile(
    started, loop, script, monkeypatch, thread
):
    """Between the look and what follows from it, a step may settle, and the next one begin in its place."""
    first_at_work, second_at_work, go_on = threading.Event(), threading.Event(), threading.Event()
    looked, look = threading.Event(), worker._held_by

    async def one(scope):
        first_at_work.set()
        while not looked.is_set():
            await asyncio.sleep(0.01)
        return await script._note(scope)

    async def two(scope):
        second_at_work.set()
        await in_database(go_on.wait, 10)
        return await script._answer(scope)

    def slow(process):
        if first_at_work.is_set() and not looked.is_set():
            looked.set()
            assert second_at_work.wait(10)
        try:
            return look(process)
        finally:
            if second_at_work.is_set():
                looks.append(1)

    looks = []
    script.by_step = {"one": one, "two": two}
    monkeypatch.setattr(worker, "_held_by", slow)
    loop.wake(started)
    assert second_at_work.wait(10)

    wait_until(lambda: len(looks) > 1 or not ExecutionEngine.running())
    go_on.set()

    wait_until(lambda: not ExecutionEngine.running())
    assert "run_recovering" not in told(thread)
    assert state_of(started) == Run.State.COMPLETED


def test_a_worker_whose_database_connection_breaks_looks_again(loop, monkeypatch):
    from django.db import InterfaceError

    from apps.operations import periodic

    looks, ended = [], []

    def broken(duty):
        looks.append(duty)
        raise InterfaceError("connection already closed")

    monkeypatch.setattr("os._exit", ended.append)
    monkeypatch.setattr(periodic, "do_now", broken)

    wait_until(lambda: len(looks) > 1 or ended)

    assert ended == []
