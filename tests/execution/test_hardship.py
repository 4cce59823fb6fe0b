"""What a run survives: databases that go away, workers that stop in the middle, rivals, and releases that forgot it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import OperationalError, connection, transaction
from uuid6 import uuid7

from apps.accounts.models import User
from apps.conversations import journal
from apps.conversations.journal import Fact
from apps.conversations.models import Message, Run, Step, Thread, ToolCall
from apps.conversations.services import ThreadNotFound, create_thread, delete_thread
from apps.execution import admission, calls, claims, services, worker
from apps.execution.engine import MOST_LOSSES
from apps.execution.orchestrator import WorkflowOrchestrator
from apps.execution.registry import Completed, Interruption, Postponed, StepSpec, Workflow, tools, workflows
from apps.execution.sweep import sweep
from tests.execution.conftest import LONG_AGO, Note, assert_well_told, beat, state_of, told, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _scripted(script, rings):
    """Every test here runs scripted agents."""


@pytest.fixture(params=["before the commit", "after the commit"])
def cut_off_once(request, monkeypatch):
    """Have the database go away once, in the middle of a function; nobody hears whether it did its work."""

    def cut_off(owner, name):
        work, failures = getattr(owner, name), [OperationalError("the server closed the connection")]

        def flaky(*args, **more):
            if failures and request.param == "before the commit":
                raise failures.pop()
            done = work(*args, **more)
            if failures:
                raise failures.pop()
            return done

        monkeypatch.setattr(owner, name, flaky)

    return cut_off


def test_a_database_that_goes_away_at_settling_costs_nothing(start, work_on, thread, cut_off_once):
    cut_off_once(WorkflowOrchestrator, "settle")
    run = start()

    work_on(run)

    assert state_of(run) == Run.State.COMPLETED
    assert "run_recovering" not in told(thread)
    assert told(thread).count("step_started") == told(thread).count("step_completed") == 2


def test_a_database_that_goes_away_when_a_call_is_closed_costs_nothing(start, work_on, script, thread, cut_off_once):
    async def shout(scope):
        answer = await scope.tools.execute_tool("shout", {"text": "hey"}, call="c1")
        assert answer.result == {"text": "HEY"}
        return await script._note(scope)

    cut_off_once(calls, "close_call")
    script.first = shout
    run = start()

    work_on(run)

    assert state_of(run) == Run.State.COMPLETED
    assert script.tool_runs == ["hey"]
    assert told(thread).count("tool_executing") == told(thread).count("tool_completed") == 1


def test_a_claim_of_which_no_more_was_heard_is_given_back_by_its_own_worker(start, monkeypatch):
    run, cut = start(), []
    admission.admit_one()
    claim_step = claims.claim_step

    def unheard(run_id, *, worker):
        claim = claim_step(run_id, worker=worker)
        if not cut:
            cut.append(claim)
            raise OperationalError("the server closed the connection")
        return claim

    monkeypatch.setattr(claims, "claim_step", unheard)
    loop = worker.WorkerLoop()
    loop.wake(run)

    wait_until(lambda: Step.objects.get(run=run, name="one").state == Step.State.READY and cut)
    loop.wake(run)
    wait_until(lambda: state_of(run) == Run.State.COMPLETED)
    loop.stop()

    assert Step.objects.get(run=run, name="one").losses == 0


def test_a_database_that_goes_away_while_an_agent_works_is_not_the_agents_failure(start, work_on, script):
    async def cut(scope):
        if scope.context.attempt == 1:
            raise OperationalError("the server closed the connection")
        return await script._note(scope)

    script.first = cut
    run = start()

    work_on(run)

    assert state_of(run) == Run.State.COMPLETED


def test_a_step_that_never_comes_to_an_end_is_given_up_visibly(start, work_on, script, thread):
    async def cut(scope):
        raise OperationalError("again and again")

    script.first = cut
    run = start()

    work_on(run)

    assert Run.objects.get(pk=run).error_code == "run.poisoned"
    assert told(thread)[-1] == "agent_error"
    assert Step.objects.get(run=run, name="one").attempt == MOST_LOSSES + 1


def test_an_agent_that_says_nothing_ends_with_an_empty_answer(start, work_on, script):
    async def silent(scope):
        return Completed(artifact=Note(), summary="nothing to say")

    script.second = silent
    run = start()

    work_on(run)

    assert state_of(run) == Run.State.COMPLETED
    assert Message.objects.get(run=run, role="assistant").text == ""


def test_a_step_whose_worker_is_gone_is_taken_up_once_it_is_overdue(start, work_on, thread):
    run = start()
    admission.admit_one()
    claims.claim_step(run, worker=beat(uuid7()))
    assert sweep() == 0
    Step.objects.filter(run=run, state="running").update(deadline_at=LONG_AGO)

    assert sweep() == 1
    work_on(run)

    assert state_of(run) == Run.State.COMPLETED
    assert told(thread).count("run_recovering") == 1


@pytest.mark.parametrize("patience", [0, 5])
def test_a_claim_that_commits_while_the_worker_stops_is_given_back(start, monkeypatch, settings, patience):
    settings.DRAIN_SECONDS = patience
    run, claiming, go_on = start(), threading.Event(), threading.Event()
    admission.admit_one()
    claim = claims.claim_step

    def slow(run_id, *, worker):
        claimed = claim(run_id, worker=worker)
        claiming.set()
        assert go_on.wait(10)
        return claimed

    monkeypatch.setattr(claims, "claim_step", slow)
    loop = worker.WorkerLoop()
    loop.wake(run)
    assert claiming.wait(10)
    stopping = threading.Thread(target=loop.stop)
    stopping.start()
    wait_until(lambda: loop._draining)
    go_on.set()
    stopping.join(10)

    assert Step.objects.get(run=run, name="one").state == Step.State.READY


def test_a_run_whose_workflow_is_gone_ends_visibly_and_stops_nobody(start, work_on, thread, as_principal, bob):
    lost = start()
    Run.objects.filter(pk=lost).update(workflow="of-another-release")
    his = start(user=bob, thread_id=create_thread(principal=as_principal(bob)).pk)

    work_on(his)

    assert state_of(his) == Run.State.COMPLETED
    assert Run.objects.get(pk=lost).error_code == "workflow.unknown"
    assert told(thread)[-2:] == ["agent_started", "agent_error"]


def test_a_run_whose_workflow_went_while_it_rested_closes_what_it_opened(start, work_on, script, thread):
    async def later(scope):
        raise Interruption(Postponed(seconds=3600, reason="The model rests."))

    script.first = later
    run = start()
    work_on(run)
    Run.objects.filter(pk=run).update(workflow="of-another-release", not_before=LONG_AGO)
    User.objects.update(runnable=True)

    assert admission.admit_one() == run

    failed = Run.objects.get(pk=run)
    assert (failed.state, failed.error_code, bool(failed.support_id)) == ("failed", "workflow.unknown", True)
    assert set(Step.objects.filter(run=run).values_list("state", flat=True)) == {"skipped"}
    assert_well_told(thread)


def test_a_step_whose_agent_is_gone_ends_the_run_with_a_sentence(start, work_on):
    run = start()
    admission.admit_one()
    Step.objects.filter(run=run, name="one").update(agent="of-another-release")

    work_on(run)

    assert Run.objects.get(pk=run).error_code == "registry.unknown"


def test_of_steps_that_settle_at_once_the_last_readies_what_waits_for_all(start, settings):
    settings.DEFAULT_WORKFLOW = "wide"
    branches = tuple(StepSpec(name=f"b{n}", agent="first") for n in range(4))
    join = StepSpec(name="join", agent="second", depends_on=tuple(step.name for step in branches))
    workflows.register(Workflow(name="wide", lead="first", steps=(*branches, join)))

    def settle(claim, barrier):
        barrier.wait(10)
        WorkflowOrchestrator(claim).settle(Completed(artifact=Note(), summary="done"))
        connection.close()

    for _ in range(10):
        run = start()
        admission.admit_one()
        held = [claims.claim_step(run, worker=uuid7()) for _ in branches]
        barrier = threading.Barrier(len(held))
        with ThreadPoolExecutor(len(held)) as rivals:
            for done in [rivals.submit(settle, claim, barrier) for claim in held]:
                done.result(20)
        assert Step.objects.get(run=run, name="join").state == Step.State.READY
        Thread.objects.update(live_run=None)
        Run.objects.filter(pk=run).update(state="failed")


def test_cancelling_while_a_step_with_an_open_call_settles_never_deadlocks(start, as_principal, alice, thread):
    def settle(claim, barrier):
        barrier.wait(10)
        try:
            WorkflowOrchestrator(claim).settle(Completed(artifact=Note(), summary="done"))
        except journal.Fenced:
            claims.abandon(claim.context)
        finally:
            connection.close()

    def cancel(run, barrier):
        barrier.wait(10)
        try:
            services.cancel_run(principal=as_principal(alice), run_id=run)
        finally:
            connection.close()

    for _ in range(15):
        run = start()
        admission.admit_one()
        claim = claims.claim_step(run, worker=uuid7())
        calls.open_call(claim.context, tools.get("shout"), {"text": "hey"}, "c1")
        barrier = threading.Barrier(2)
        with ThreadPoolExecutor(2) as rivals:
            for done in [rivals.submit(settle, claim, barrier), rivals.submit(cancel, run, barrier)]:
                done.result(20)
        assert state_of(run) == Run.State.CANCELLED
        assert not ToolCall.objects.filter(run=run, state="started").exists()
        assert set(Step.objects.filter(run=run).values_list("state", flat=True)) <= {"completed", "skipped"}

    events = told(thread)
    assert events.count("tool_executing") == events.count("tool_completed")
    assert events.count("step_started") == events.count("step_completed")
    assert events.count("run_cancelled") == 15


def test_a_refusal_is_told_once_however_often_the_step_is_begun(start, work_on, script, thread):
    async def ask(scope):
        await scope.tools.execute_tool("nothing", {}, call="c1")
        if scope.context.attempt == 1:
            raise OperationalError("cut")
        return await script._note(scope)

    script.first = ask

    work_on(start())

    assert told(thread).count("tool_executing") == told(thread).count("tool_completed") == 1


def test_sending_to_a_thread_that_is_deleted_meanwhile_says_that_it_is_gone(start, thread, monkeypatch):
    inserted = services._insert_run

    def delete():
        Thread.objects.filter(pk=thread.pk).delete()
        connection.close()

    def delete_first(*args, **more):
        with ThreadPoolExecutor(1) as somebody_else:
            somebody_else.submit(delete).result(10)
        return inserted(*args, **more)

    monkeypatch.setattr(services, "_insert_run", delete_first)

    with pytest.raises(ThreadNotFound):
        start()


def test_a_worker_goes_on_with_its_run_when_admission_fails(start, monkeypatch):
    run, done = start(), threading.Event()
    admission.admit_one()
    monkeypatch.setattr(admission, "admit_one", lambda: 1 / 0)
    settle = WorkflowOrchestrator.settle
    monkeypatch.setattr(WorkflowOrchestrator, "settle", lambda self, outcome: (settle(self, outcome), done.set()))
    loop = worker.WorkerLoop()

    loop.wake(run)

    assert done.wait(10)
    loop.stop()


def test_a_thread_is_stopped_deleted_and_written_to_at_once_without_a_deadlock(start, as_principal, alice, thread):
    run = start()
    admission.admit_one()
    claim = claims.claim_step(run, worker=uuid7())

    def delete():
        try:
            delete_thread(principal=as_principal(alice), thread_id=thread.pk)
        finally:
            connection.close()

    def write():
        try:
            with pytest.raises(journal.Fenced):
                journal.append(claim.context.fence, Fact("agent_thinking", {"thought": "hm", "progress": 1}))
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as rivals:
        with transaction.atomic():
            journal.lock_thread(thread.pk)
            deleted = rivals.submit(delete)
            wait_until(lambda: waiting_for_locks() == 1)
            written = rivals.submit(write)
            wait_until(lambda: waiting_for_locks() == 2)
            services.cancel_run(principal=as_principal(alice), run_id=run)
        written.result(20)
        deleted.result(20)

    assert not Thread.objects.filter(pk=thread.pk).exists()
    assert not Step.objects.filter(run=run).exists()


def waiting_for_locks() -> int:
    with connection.cursor() as cursor:
        cursor.execute("select count(distinct pid) from pg_locks where not granted")
        return cursor.fetchone()[0]
