"""The life of a run: from a message to one terminal event."""

import asyncio

import pytest

from apps.conversations import journal
from apps.conversations.journal import Fact, Fenced
from apps.conversations.models import Message, Run, Step, Thread, ToolCall
from apps.conversations.services import RunNotFound
from apps.execution import admission, calls, claims, services
from apps.execution.engine import ExecutionEngine
from apps.execution.registry import BrokenWorkflow, StepSpec, Workflow, tools, validate, workflows
from apps.execution.sweep import sweep
from apps.operations.database import in_database
from tests.execution.conftest import LONG_AGO, events_of, state_of, told

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _scripted(script, rings):
    """Every test here runs scripted agents."""


WHOLE_RUN = [
    "message_created",
    "run_queued",
    "agent_started",
    "step_started",
    "step_completed",
    "step_started",
    "step_completed",
    "agent_completed",
]


def test_a_run_goes_from_message_to_answer_in_numbered_events(start, work_on, thread):
    run = start()

    work_on(run)

    events = events_of(thread)
    assert [event["type"] for event in events] == WHOLE_RUN
    assert [event["seq"] for event in events] == list(range(1, len(WHOLE_RUN) + 1))
    assert events[-1]["data"]["final_seq"] == events[-1]["seq"]
    assert events[-1]["data"]["text"] == "The answer."
    assert state_of(run) == Run.State.COMPLETED
    assert Thread.objects.get(pk=thread.pk).live_run is None


def test_a_message_rings_only_after_its_transaction_has_committed(start, rings):
    run = start()

    assert rings == [run]


def test_the_same_key_answers_what_the_first_send_answered(start, thread):
    assert start(key="k") == start(key="k")
    assert told(thread) == ["message_created", "run_queued"]


def test_another_message_under_a_used_key_is_refused(start):
    start("Hello", key="k")

    with pytest.raises(services.IdempotencyMismatch, match="use a new one"):
        start("Something else", key="k")


def test_a_viewer_cannot_ask(as_principal, vera, thread):
    with pytest.raises(services.Forbidden, match="member"):
        services.start_run(principal=as_principal(vera), thread_id=thread.pk, text="Hello")


def test_a_null_character_in_a_message_is_dropped_and_nothing_breaks(start, work_on):
    run = start("Hel\x00lo")

    work_on(run)

    assert Message.objects.get(run=run, role="user").text == "Hello"
    assert state_of(run) == Run.State.COMPLETED


@pytest.mark.parametrize("text", ["\\u0000", "\\\\u0000 \\ud800", '{"a": "\\u0000"}'])
def test_what_looks_like_a_null_character_is_told_as_it_was_written(start, text, thread):
    start(text)

    assert events_of(thread)[0]["data"]["text"] == text


def test_two_runs_of_a_thread_run_one_after_the_other_in_the_order_of_asking(start, work_on, thread):
    first, second = start("One"), start("Two")

    work_on(second)
    assert state_of(second) == Run.State.QUEUED
    work_on(first)
    work_on(second)

    assert state_of(first) == state_of(second) == Run.State.COMPLETED
    assert told(thread).count("agent_completed") == 2


def test_no_more_than_the_plan_allows_run_at_once(start, as_principal, alice):
    from apps.conversations.services import create_thread

    for _ in range(7):
        start(thread_id=create_thread(principal=as_principal(alice)).pk)
    while admission.admit_one():
        pass

    assert Run.objects.filter(state=Run.State.RUNNING).count() == 5


def test_the_least_recently_served_user_goes_first(start, as_principal, alice, bob):
    from apps.conversations.services import create_thread

    mine = [start(thread_id=create_thread(principal=as_principal(alice)).pk) for _ in range(3)]
    his = start(thread_id=create_thread(principal=as_principal(bob)).pk, user=bob)

    assert [admission.admit_one() for _ in range(4)] == [mine[0], his, mine[1], mine[2]]


def test_a_failing_agent_ends_the_run_with_one_error_and_closes_what_it_opened(start, work_on, thread, script):
    async def fail(scope):
        raise RuntimeError("secret detail")

    script.first = fail
    run = start()

    work_on(run)

    events = events_of(thread)
    assert [event["type"] for event in events[3:]] == ["step_started", "step_completed", "agent_error"]
    assert events[-1]["data"]["code"] == "internal.error"
    assert events[-1]["data"]["support_id"]
    assert "secret" not in str(events)
    assert state_of(run) == Run.State.FAILED
    assert Step.objects.get(run=run, name="two").state == Step.State.SKIPPED


def test_a_step_past_its_deadline_fails_visibly(start, work_on, thread, script):
    async def hang(scope):
        await asyncio.Event().wait()

    script.first = hang
    run = start()
    admission.admit_one()
    Step.objects.filter(run=run, name="one").update(patience=0.05)

    work_on(run)

    assert events_of(thread)[-1]["data"]["code"] == "step.deadline"


def test_a_tool_call_is_journaled_with_its_result_and_its_pair_of_events(start, work_on, thread, script):
    async def shout(scope):
        answer = await scope.tools.execute_tool("shout", {"text": "hey"}, call="c1")
        assert answer.result == {"text": "HEY"}
        return await script._note(scope)

    script.first = shout
    work_on(start())

    events = [event for event in events_of(thread) if "tool" in event["type"]]
    assert [(event["type"], event["data"]["call"]) for event in events] == [
        ("tool_executing", "c1"),
        ("tool_completed", "c1"),
    ]
    assert ToolCall.objects.get().result == {"text": "HEY"}


@pytest.mark.parametrize(
    ("name", "arguments", "code"),
    [
        ("shout", {"text": 3}, "tool.arguments_invalid"),
        ("shout", {"text": "hey", "more": "?"}, None),
        ("nothing", {}, "tool.denied"),
    ],
)
def test_a_call_that_may_not_be_made_is_answered_as_refused(start, work_on, script, name, arguments, code):
    seen = []

    async def ask(scope):
        seen.append(await scope.tools.execute_tool(name, arguments, call="c1"))
        return await script._note(scope)

    script.first = ask
    work_on(start())

    assert seen[0].status == ("refused" if code else "succeeded")
    assert seen[0].code == (code or "")


def test_a_step_given_back_goes_on_elsewhere_and_repeats_no_finished_tool_call(start, work_on, thread, script, worker):
    async def cut_off(scope):
        await scope.tools.execute_tool("shout", {"text": "hey"}, call="c1")
        if scope.context.attempt == 1:
            raise asyncio.CancelledError
        return await script._note(scope)

    script.first = cut_off
    run = start()
    admission.admit_one()
    claim = claims.claim_step(run, worker=worker)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(ExecutionEngine.for_user(claim.context).run_step(claim))

    work_on(run)

    assert script.tool_runs == ["hey"]
    assert state_of(run) == Run.State.COMPLETED
    types = told(thread)
    assert types.count("step_started") == types.count("step_completed") == 2
    assert types.count("run_recovering") == 1
    assert types.count("agent_started") == 1


def test_an_unsafe_call_cut_off_in_the_middle_is_never_repeated(
    start, work_on, script, worker, thread, as_principal, alice
):
    async def cut_off(scope):
        if scope.context.attempt == 1:
            await in_database(calls.open_call, scope.context, tools.get("hazard"), {"text": "boom"}, "c1")
            raise asyncio.CancelledError
        answer = await scope.tools.execute_tool("hazard", {"text": "boom"}, call="c1")
        assert answer.status == "unknown"
        return await script._note(scope)

    script.first = cut_off
    run = start()
    admission.admit_one()
    claim = claims.claim_step(run, worker=worker)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(ExecutionEngine.for_user(claim.context).run_step(claim))

    work_on(run)
    assert state_of(run) == Run.State.WAITING
    assert told(thread)[-1] == "approval_requested"
    services.answer_run(principal=as_principal(alice), run_id=run, call="c1", value="skip")
    work_on(run)

    assert script.tool_runs == []
    assert state_of(run) == Run.State.COMPLETED


def test_a_stale_attempt_can_write_nothing(start, worker):
    run = start()
    admission.admit_one()
    stale = claims.claim_step(run, worker=worker).context
    claims.release(stale)
    claims.claim_step(run, worker=worker)

    with pytest.raises(Fenced):
        journal.append(stale.fence, Fact("agent_thinking", {"thought": "?", "progress": 1}))


def test_cancelling_a_running_run_closes_it_and_fences_its_worker_off(start, as_principal, alice, thread, worker):
    run = start()
    admission.admit_one()
    context = claims.claim_step(run, worker=worker).context

    services.cancel_run(principal=as_principal(alice), run_id=run)

    assert told(thread)[-3:] == ["step_started", "step_completed", "run_cancelled"]
    with pytest.raises(Fenced):
        journal.append(context.fence, Fact("agent_thinking", {"thought": "?", "progress": 1}))
    with pytest.raises(services.RunFinished):
        services.cancel_run(principal=as_principal(alice), run_id=run)


def test_cancelling_a_queued_run_ends_it_without_a_start(start, as_principal, alice, thread):
    run = start()

    services.cancel_run(principal=as_principal(alice), run_id=run)

    assert told(thread) == ["message_created", "run_queued", "run_cancelled"]
    assert admission.admit_one() is None


def test_somebody_elses_run_cannot_be_cancelled_nor_seen(start, as_principal, bob, charlie):
    run = start()

    for stranger in (bob, charlie):
        with pytest.raises(RunNotFound):
            services.cancel_run(principal=as_principal(stranger), run_id=run)


def test_a_lost_ring_is_rung_again(start, rings):
    run = start()
    rings.clear()
    Run.objects.update(rung_at=LONG_AGO)

    assert sweep() == 1
    assert rings == [run]
    assert sweep() == 0


def test_a_ready_step_without_a_worker_is_rung_for_again(start, rings):
    run = start()
    admission.admit_one()
    rings.clear()
    Step.objects.update(rung_at=LONG_AGO)

    assert sweep() == 1
    assert rings == [run]


@pytest.mark.parametrize(
    ("steps", "complaint"),
    [
        (
            (
                StepSpec(name="a", agent="first", depends_on=("b",)),
                StepSpec(name="b", agent="first", depends_on=("a",)),
            ),
            "wait for each other",
        ),
        ((StepSpec(name="a", agent="nobody"),), "nobody"),
        ((StepSpec(name="a", agent="first", depends_on=("z",)),), "z"),
    ],
)
def test_a_workflow_that_could_never_finish_is_refused_at_start_up(steps, complaint):
    workflows.register(Workflow(name="broken", lead="first", steps=steps))

    with pytest.raises(BrokenWorkflow, match=complaint):
        validate()
