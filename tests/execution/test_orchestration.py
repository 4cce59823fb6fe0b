"""The walk through a workflow's graph: conditions, failures, second tries, postponements, and steps side by side."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import stamina
from django.db import connection, transaction
from django.utils import timezone
from pydantic import BaseModel
from uuid6 import uuid7

from apps.accounts.models import Plan
from apps.conversations import journal, lifecycle
from apps.conversations.models import Message, Run, Step
from apps.conversations.services import create_thread
from apps.errors import NetraError
from apps.execution import admission, claims, registry, services
from apps.execution.orchestrator import WorkflowOrchestrator
from apps.execution.registry import (
    Agent,
    AlreadyRegistered,
    BrokenWorkflow,
    Completed,
    Effect,
    Interruption,
    NotRegistered,
    Postponed,
    StepSpec,
    Tool,
    Workflow,
    agents,
    tools,
    validate,
    workflows,
)
from apps.execution.sweep import sweep
from apps.statements import fetch
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


class Number(BaseModel):
    number: float


class Hiccup(NetraError):
    """What may go better the next time."""

    code = "model.hiccup"
    retryable = True


@pytest.fixture(autouse=True)
def _scripted(script, rings):
    """Every test here runs scripted agents, and waits for no second try."""
    stamina.set_testing(True, attempts=99, cap=True)
    yield
    stamina.set_testing(False)


@pytest.fixture
def finish(start, work_on, thread):
    """Take a run of the defined workflow to wherever it gets by itself."""

    def finish():
        run = start()
        work_on(run)
        return run

    return finish


def states(run):
    return dict(Step.objects.filter(run=run).values_list("name", "state"))


def note_inputs(script, seen):
    """Have every step write down what was handed to it."""

    async def note(scope):
        seen[scope.context.step] = dict(scope.inputs)
        return Completed(artifact=Note(text=scope.context.step), summary="noted")

    script.first = note


# --- Conditions ------------------------------------------------------------------------------------------------------


def test_a_step_that_is_not_wanted_is_skipped_and_those_after_it_go_on_without(define_workflow, script, finish, thread):
    seen = {}
    note_inputs(script, seen)
    define_workflow(
        StepSpec(name="a", agent="first"),
        StepSpec(name="b", agent="first", depends_on=("a",), condition=lambda inputs: inputs["a"].text != "a"),
        StepSpec(name="c", agent="first", depends_on=("b",)),
    )

    run = finish()

    assert states(run) == {"a": "completed", "b": "skipped", "c": "completed"}
    assert seen["c"] == {"a": Note(text="a")}
    skipped = [event for event in events_of(thread) if event.get("step") == "b"]
    assert [event["type"] for event in skipped] == ["step_started", "step_completed"]
    assert skipped[1]["data"]["status"] == "skipped"
    assert state_of(run) == Run.State.COMPLETED
    assert_well_told(thread)


def test_a_chain_of_steps_that_are_not_wanted_is_skipped_as_one(define_workflow, finish, thread):
    wanted = {"condition": lambda inputs: False}
    define_workflow(
        StepSpec(name="a", agent="second"),
        StepSpec(name="b", agent="first", depends_on=("a",), **wanted),
        StepSpec(name="c", agent="first", depends_on=("b",), condition=lambda inputs: "b" in inputs),
        StepSpec(name="d", agent="first", depends_on=("c", "b"), **wanted),
    )

    run = finish()

    assert states(run) == {"a": "completed", "b": "skipped", "c": "skipped", "d": "skipped"}
    assert state_of(run) == Run.State.COMPLETED
    assert Message.objects.get(run=run, role="assistant").text == "The answer."
    assert_well_told(thread)


def test_a_condition_sees_what_every_completed_step_handed_over(define_workflow, finish):
    seen = []
    define_workflow(
        StepSpec(name="a", agent="first"),
        StepSpec(name="b", agent="first"),
        StepSpec(name="c", agent="first", depends_on=("b",), condition=lambda inputs: seen.append(inputs) or True),
    )

    run = finish()

    assert seen == [{"a": Note(), "b": Note()}]
    assert states(run)["c"] == "completed"


def test_a_condition_that_breaks_ends_the_run_once_and_visibly(define_workflow, script, finish, thread):
    worked = []

    async def work(scope):
        worked.append(scope.context.step)
        return await script._note(scope)

    script.first = work
    define_workflow(
        StepSpec(name="a", agent="first"),
        StepSpec(name="b", agent="first", depends_on=("a",), condition=lambda inputs: 1 / 0),
    )

    run = finish()

    assert worked == ["a"]
    assert state_of(run) == Run.State.FAILED
    assert events_of(thread)[-1]["data"]["code"] == "internal.error"
    assert_well_told(thread)


@pytest.mark.parametrize("forgiving", [False, True])
def test_a_condition_that_breaks_after_a_failure_ends_the_run(define_workflow, script, finish, thread, forgiving):
    async def fail(scope):
        raise RuntimeError

    script.first = fail
    define_workflow(
        StepSpec(name="a", agent="first", continue_on_error=forgiving),
        StepSpec(name="b", agent="first", depends_on=("a",), condition=lambda inputs: inputs["a"].text == "done"),
    )

    run = finish()

    assert state_of(run) == Run.State.FAILED
    assert told(thread).count("agent_error") == 1
    assert_well_told(thread)


# --- Failures --------------------------------------------------------------------------------------------------------


def test_a_step_that_may_fail_does_not_take_the_run_with_it(define_workflow, script, finish, thread):
    seen = {}
    note_inputs(script, seen)

    async def fail(scope):
        raise RuntimeError("secret")

    script.by_step["b"] = fail
    define_workflow(
        StepSpec(name="a", agent="first"),
        StepSpec(name="b", agent="first", depends_on=("a",), continue_on_error=True),
        StepSpec(name="c", agent="first", depends_on=("b",)),
    )

    run = finish()

    assert states(run) == {"a": "completed", "b": "failed", "c": "completed"}
    assert "b" not in seen["c"]
    assert state_of(run) == Run.State.COMPLETED
    assert "secret" not in str(events_of(thread))
    assert_well_told(thread)


def test_a_failure_ends_the_run_and_calls_off_the_steps_beside_it(define_workflow, script, start, thread):
    async def fail(scope):
        raise RuntimeError

    script.by_step["left"] = fail
    define_workflow(
        StepSpec(name="left", agent="first"),
        StepSpec(name="right", agent="first"),
        StepSpec(name="join", agent="second", depends_on=("left", "right")),
    )
    run = start()
    admission.admit_one()
    left, right = (claims.claim_step(run, worker=beat(uuid7())) for _ in range(2))

    attempt(left)
    attempt(right)

    assert states(run) == {"left": "failed", "right": "skipped", "join": "skipped"}
    assert Run.objects.get(pk=run).error_code == "internal.error"
    assert_well_told(thread)


def test_what_may_go_better_is_tried_again_and_no_finished_tool_call_is_repeated(script, finish, thread):
    tries = []

    async def hiccup(scope):
        answer = await scope.tools.execute_tool("shout", {"text": "hey"}, call="c1")
        tries.append(answer.result)
        if len(tries) < 3:
            raise Hiccup("Not now.")
        return await script._note(scope)

    script.first = hiccup

    run = finish()

    assert tries == [{"text": "HEY"}] * 3
    assert script.tool_runs == ["hey"]
    assert step_of(run, "one").attempt == 1
    assert "run_recovering" not in told(thread)
    assert state_of(run) == Run.State.COMPLETED


def test_what_never_goes_better_fails_with_its_own_words(define_workflow, script, finish, thread):
    tries = []

    async def hiccup(scope):
        tries.append(1)
        raise Hiccup("Not now.")

    script.first = hiccup
    define_workflow(StepSpec(name="a", agent="first", tries=4))

    run = finish()

    assert len(tries) == 4
    end = events_of(thread)[-1]
    assert (end["type"], end["data"]["code"], end["data"]["detail"]) == ("agent_error", "model.hiccup", "Not now.")
    assert end["data"]["retryable"]
    assert Run.objects.get(pk=run).error_detail == "Not now."


def test_what_will_not_go_better_is_not_tried_again(script, finish):
    tries = []

    async def refuse(scope):
        tries.append(1)
        raise NetraError("Never.")

    script.first = refuse

    run = finish()

    assert len(tries) == 1
    assert Run.objects.get(pk=run).error_code == "netra.error"


def test_an_agents_own_timeout_is_not_said_to_be_the_steps(script, finish):
    async def impatient(scope):
        async with asyncio.timeout(0.001):
            await asyncio.Event().wait()

    script.first = impatient

    assert Run.objects.get(pk=finish()).error_code == "internal.error"


def test_a_step_has_no_more_time_than_its_run(define_workflow, script, finish):
    seen = []

    async def look(scope):
        seen.append(scope.context.seconds_left)
        return await script._note(scope)

    script.first = look
    Plan.objects.update(max_run_seconds=7)
    define_workflow(StepSpec(name="a", agent="first", deadline=1000), StepSpec(name="b", agent="first", deadline=3))

    finish()

    assert 3 < seen[0] <= 7
    assert seen[1] <= 3


# --- Hand-overs ------------------------------------------------------------------------------------------------------


def test_an_agent_that_hands_over_something_else_than_it_promised_fails(script, finish, thread):
    async def wrong(scope):
        return Completed(artifact=Number(number=1), summary="a number")

    script.first = wrong

    run = finish()

    assert Run.objects.get(pk=run).error_code == "artifact.invalid"
    assert "Note" in events_of(thread)[-1]["data"]["detail"]
    assert_well_told(thread)


@pytest.mark.parametrize("conditional", [False, True])
def test_a_hand_over_that_does_not_fit_any_more_ends_the_run_and_says_whose_it_was(
    define_workflow, script, start, work_on, thread, worker, conditional
):
    condition = (lambda inputs: True) if conditional else None
    define_workflow(
        StepSpec(name="a", agent="first"),
        StepSpec(name="b", agent="first", depends_on=("a",)),
        StepSpec(name="c", agent="first", depends_on=("b",), condition=condition),
    )
    run = start()
    admission.admit_one()
    attempt(claims.claim_step(run, worker=worker))
    if conditional:
        attempt_of_b = claims.claim_step(run, worker=worker)
    Step.objects.filter(run=run, name="a").update(artifact={"text": ["of", "another", "release"]})

    if conditional:
        attempt(attempt_of_b)
    work_on(run)

    assert Run.objects.get(pk=run).error_code == "artifact.invalid"
    assert events_of(thread)[-1]["data"]["detail"] == "a handed over no Note."
    assert_well_told(thread)


@pytest.mark.parametrize("text", ["nul \x00", "half \ud800 of a pair"])
def test_a_hand_over_that_no_database_stores_as_it_is_breaks_nothing(script, finish, text):
    async def note(scope):
        return Completed(artifact=Note(text="x").model_copy(update={"text": text}), summary=text)

    script.first = note

    assert state_of(finish()) == Run.State.COMPLETED


def test_a_number_that_is_none_is_found_out_by_whoever_gets_it(define_workflow, script, finish):
    async def divide(scope):
        return Completed(artifact=Number(number=float("nan")), summary="nothing by nothing")

    agents.register(Agent(name="divider", description="", artifact=Number, run=divide))
    define_workflow(StepSpec(name="a", agent="divider"), StepSpec(name="b", agent="second", depends_on=("a",)))

    assert Run.objects.get(pk=finish()).error_code == "artifact.invalid"


# --- Postponed -------------------------------------------------------------------------------------------------------


@pytest.fixture
def postpone(script):
    """Have a step be postponed the first time it is begun."""

    def postpone(step, seconds=3600.0):
        async def later(scope):
            if scope.context.attempt == 1:
                raise Interruption(Postponed(seconds=seconds, reason="The model rests."))
            return await script._note(scope)

        script.by_step[step] = later

    return postpone


def let_time_pass(run):
    Run.objects.filter(pk=run, not_before__isnull=False).update(not_before=LONG_AGO)
    Step.objects.filter(run=run, not_before__isnull=False).update(not_before=LONG_AGO)


def test_a_postponed_run_gives_back_its_place_and_keeps_its_threads_line(
    postpone, finish, start, as_principal, alice, thread
):
    Plan.objects.update(max_running_runs=1)
    postpone("one")
    run = finish()
    start()
    other = start(thread_id=create_thread(principal=as_principal(alice)).pk)

    postponed = Run.objects.get(pk=run)
    assert postponed.state == Run.State.QUEUED
    assert postponed.not_before > postponed.started_at
    assert told(thread)[4:5] == ["agent_thinking"]
    assert admission.admit_one() == other
    assert admission.admit_one() is None


def test_a_postponed_run_is_rung_for_when_its_time_has_come_and_says_why_it_waited(
    postpone, finish, work_on, rings, thread
):
    postpone("one")
    run = finish()
    Run.objects.update(rung_at=LONG_AGO)
    Step.objects.update(rung_at=LONG_AGO)
    rings.clear()

    assert sweep() == 0
    let_time_pass(run)
    assert sweep() == 1
    assert rings == [run]
    work_on(run)

    assert state_of(run) == Run.State.COMPLETED
    (recovering,) = [event for event in events_of(thread) if event["type"] == "run_recovering"]
    assert recovering["data"]["reason"] == "The model rests."
    assert step_of(run, "one").losses == 0
    assert_well_told(thread)


def test_a_run_is_rung_for_as_soon_as_its_time_has_come(postpone, finish, rings):
    postpone("one")
    run = finish()
    Run.objects.filter(rung_at__lt=Run.objects.get(pk=run).not_before).update(rung_at=LONG_AGO)
    let_time_pass(run)
    rings.clear()

    sweep()

    assert rings == [run]


def test_a_worker_whose_clock_is_wrong_postpones_by_that_of_the_database(postpone, start, work_on, monkeypatch):
    postpone("one", seconds=60.0)
    now = timezone.now
    monkeypatch.setattr(timezone, "now", lambda: now() + timedelta(days=1))
    run = start()

    work_on(run)

    postponed, step = Run.objects.get(pk=run), step_of(run, "one")
    assert (postponed.state, step.state) == (Run.State.QUEUED, Step.State.READY)
    assert step.not_before == postponed.not_before
    assert timedelta(seconds=0) < step.not_before - now() <= timedelta(seconds=60)


def test_a_run_that_is_postponed_again_and_again_ends_with_its_own_time(script, finish, work_on):
    """Every postponement is short; together they are longer than a run may work."""
    begun = []

    async def later(scope):
        begun.append(1)
        raise Interruption(Postponed(seconds=1, reason="Not now."))

    script.first = later
    run = finish()
    for _ in range(3):
        let_time_pass(run)
        sweep()
        work_on(run)
        assert state_of(run) == Run.State.QUEUED

    assert len(begun) == 4


def test_a_step_that_is_postponed_beside_others_at_work_waits_alone(define_workflow, postpone, start, work_on, thread):
    define_workflow(
        StepSpec(name="left", agent="first"),
        StepSpec(name="right", agent="first"),
        StepSpec(name="join", agent="second", depends_on=("left", "right")),
    )
    postpone("left")
    run = start()
    admission.admit_one()
    left, right = (claims.claim_step(run, worker=beat(uuid7())) for _ in range(2))

    attempt(left)
    assert state_of(run) == Run.State.RUNNING
    assert claims.claim_step(run, worker=uuid7()) is None
    attempt(right)
    let_time_pass(run)
    sweep()
    work_on(run)

    assert state_of(run) == Run.State.COMPLETED
    assert_well_told(thread)


@pytest.mark.parametrize("second", ["postponed", "done"])
def test_a_run_of_which_everything_left_is_postponed_gives_back_its_place(
    define_workflow, postpone, start, work_on, second
):
    define_workflow(StepSpec(name="left", agent="first"), StepSpec(name="right", agent="first"))
    postpone("left", 1800)
    if second == "postponed":
        postpone("right", 3600)
    run = start()

    work_on(run)

    resting = Run.objects.get(pk=run)
    assert resting.state == Run.State.QUEUED
    assert resting.not_before == step_of(run, "left").not_before
    let_time_pass(run)
    sweep()
    work_on(run)
    assert state_of(run) == Run.State.COMPLETED


def test_a_step_whose_time_comes_while_its_run_is_being_paused_is_not_begun(
    define_workflow, postpone, start, work_on, thread
):
    define_workflow(StepSpec(name="left", agent="first"), StepSpec(name="right", agent="first"))
    postpone("left")
    run = start()
    admission.admit_one()
    left, _ = (claims.claim_step(run, worker=beat(uuid7())) for _ in range(2))
    attempt(left)
    let_time_pass(run)

    def claim():
        try:
            return claims.claim_step(run, worker=beat(uuid7()))
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as rival:
        with transaction.atomic():
            journal.lock_thread(thread.pk)
            claiming = rival.submit(claim)
            wait_until(lambda: fetch("select 1 from pg_locks where not granted", {}))
            lifecycle.move_run(run, source=Run.State.RUNNING, to=Run.State.QUEUED)
        assert claiming.result(20) is None

    assert (step_of(run, "left").state, step_of(run, "left").attempt) == ("ready", 1)


def test_an_answer_is_heard_at_once_though_another_step_is_postponed(
    define_workflow, postpone, script, start, work_on, as_principal, alice
):
    heard = []

    async def ask(scope):
        heard.append(
            await scope.ask_for_data({"field": "f", "why": "", "unlocks": "", "worth_usd": None, "how_to_export": ""})
        )
        return await script._note(scope)

    define_workflow(StepSpec(name="asks", agent="first"), StepSpec(name="later", agent="first"))
    script.by_step["asks"] = ask
    postpone("later")
    run = start()
    work_on(run)
    assert state_of(run) == Run.State.QUEUED

    services.answer_run(principal=as_principal(alice), run_id=run, call=None, value="yes")
    work_on(run)

    assert heard == ["yes"]
    assert step_of(run, "later").attempt == 1
    let_time_pass(run)
    sweep()
    work_on(run)
    assert state_of(run) == Run.State.COMPLETED


# --- Side by side ----------------------------------------------------------------------------------------------------


def test_steps_side_by_side_are_done_by_two_workers_and_joined_once(define_workflow, script, start, work_on, thread):
    seen, meeting = {}, threading.Barrier(2)
    note_inputs(script, seen)

    async def meet(scope):
        await asyncio.to_thread(meeting.wait, 10)
        return Completed(artifact=Note(text=scope.context.step), summary="met")

    script.by_step = {"left": meet, "right": meet}
    define_workflow(
        StepSpec(name="left", agent="first"),
        StepSpec(name="right", agent="first"),
        StepSpec(name="join", agent="first", depends_on=("left", "right")),
    )
    run = start()
    admission.admit_one()

    def work():
        try:
            attempt(claims.claim_step(run, worker=beat(uuid7())))
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as workers:
        for done in [workers.submit(work) for _ in range(2)]:
            done.result(20)
    work_on(run)

    assert seen["join"] == {"left": Note(text="left"), "right": Note(text="right")}
    assert step_of(run, "join").attempt == 1
    assert state_of(run) == Run.State.COMPLETED
    assert_well_told(thread)


def test_somebody_is_rung_for_every_ready_step_but_the_one_that_is_taken_at_once(define_workflow, start, rings, worker):
    after = {"depends_on": ("a",)}
    define_workflow(
        StepSpec(name="a", agent="first"),
        StepSpec(name="x", agent="first"),
        *[StepSpec(name=name, agent="first", **after) for name in ("b", "c", "d")],
    )
    run = start()
    rings.clear()

    admission.admit_one()
    assert rings == [run]
    rings.clear()
    attempt(claims.claim_step(run, worker=worker))

    assert rings == [run, run]


def test_of_two_claims_of_one_step_at_once_one_succeeds(start):
    def claim():
        barrier.wait(10)
        try:
            return claims.claim_step(run, worker=uuid7())
        finally:
            connection.close()

    run = start()
    admission.admit_one()
    barrier = threading.Barrier(6)
    with ThreadPoolExecutor(6) as rivals:
        claimed = [done.result(20) for done in [rivals.submit(claim) for _ in range(6)]]

    assert sum(claim is not None for claim in claimed) == 1


def test_a_step_is_settled_once_however_often_it_is_tried(start, worker, thread):
    run = start()
    admission.admit_one()
    claim = claims.claim_step(run, worker=worker)
    done = Completed(artifact=Note(), summary="done")

    def settle():
        barrier.wait(10)
        try:
            return WorkflowOrchestrator(claim).settle(done)
        except NetraError as error:
            return error.code
        finally:
            connection.close()

    barrier = threading.Barrier(4)
    with ThreadPoolExecutor(4) as rivals:
        settled = [done.result(20) for done in [rivals.submit(settle) for _ in range(4)]]

    assert sorted(map(str, settled)) == ["True", "step.fenced", "step.fenced", "step.fenced"]
    assert told(thread).count("step_completed") == 1


# --- Releases that forget --------------------------------------------------------------------------------------------


def test_a_run_whose_workflow_is_gone_in_the_middle_ends_visibly(start, work_on, script, thread):
    run = start()
    admission.admit_one()
    del workflows._items["scripted"]

    work_on(run)

    assert Run.objects.get(pk=run).error_code == "registry.unknown"
    assert told(thread).count("agent_error") == 1
    assert_well_told(thread)


def test_a_run_whose_workflow_is_gone_while_an_agent_works_ends_visibly(start, work_on, script, thread):
    async def forget(scope):
        workflows._items.pop("scripted", None)
        return await script._note(scope)

    script.first = forget
    run = start()

    work_on(run)

    assert state_of(run) in {Run.State.FAILED, Run.State.COMPLETED}
    assert_well_told(thread)


def test_a_step_that_the_workflow_does_not_have_any_more_is_done_by_its_agent_alone(start, work_on, script, thread):
    run = start()
    admission.admit_one()
    workflows._items["scripted"] = Workflow(
        name="scripted", lead="second", steps=(StepSpec(name="two", agent="second"),)
    )

    work_on(run)

    assert state_of(run) == Run.State.COMPLETED


# --- At start-up -----------------------------------------------------------------------------------------------------


def of(*steps):
    return lambda: workflows.register(Workflow(name="broken", lead="first", steps=steps))


def tool(**more):
    async def run(context, arguments):
        return arguments

    return lambda: tools.register(Tool(name="broken", description="", arguments=Note, run=run, summarize=str, **more))


@pytest.mark.parametrize(
    ("declare", "complaint"),
    [
        (of(), "needs steps"),
        (of(StepSpec(name="a", agent="first"), StepSpec(name="a", agent="first")), "a name of its own"),
        (of(StepSpec(name="a", agent="first", depends_on=("a",))), "wait for each other"),
        (of(StepSpec(name="a", agent="first", condition=lambda inputs: True)), "nothing to look at"),
        (of(StepSpec(name="a,b", agent="first")), "a,b"),
        (of(StepSpec(name="None", agent="first")), "None"),
        (of(StepSpec(name="a" * 65, agent="first")), "a" * 65),
        (of(StepSpec(name="a", agent="first", tries=0)), "tries"),
        (tool(effect=Effect.QUERYABLE), "needs `query`"),
        (tool(role="king"), "king"),
        (tool(plan="gold"), "gold"),
        (
            lambda: agents.register(Agent(name="broken", description="", artifact=Note, run=None, tools=("saw",))),
            "saw",
        ),
    ],
)
def test_what_could_never_work_is_refused_at_start_up_with_its_name(declare, complaint):
    declare()

    with pytest.raises(BrokenWorkflow, match=complaint):
        validate()


def test_a_name_is_given_once_and_an_unknown_one_is_answered_with_those_there_are():
    with pytest.raises(AlreadyRegistered, match="first"):
        agents.register(agents.get("first"))
    with pytest.raises(NotRegistered, match="first, second"):
        agents.get("third")
    assert [agent.name for agent in agents] == ["first", "second"]
    assert "first" in registry.agents
