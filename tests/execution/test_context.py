"""Whose request it is: contexts that refuse what is made up or foreign, scopes that close, and tools that obey both."""

import asyncio
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from uuid6 import uuid7

from apps.accounts.models import Membership, Organization, Plan, User
from apps.accounts.tenancy import Principal
from apps.conversations.models import Run, Thread, ToolCall
from apps.conversations.services import create_thread
from apps.execution import admission, calls, claims
from apps.execution.context import (
    CALL_LENGTH,
    DEEPEST,
    ForeignContext,
    InvalidContext,
    UserExecutionContext,
    call_name,
    context_for,
    scopes,
    user_execution_scope,
)
from apps.execution.dispatcher import Disposed, ToolExecutorFactory
from apps.execution.engine import ExecutionEngine
from apps.execution.permissions import Spent, Verdict, may_call, may_use
from apps.execution.registry import Agent, AlreadyRegistered, Effect, NotRegistered, Place, Tool, agents, tools
from apps.operations.database import storable
from tests.execution.conftest import Note, events_of, told

NOBODY, EVERYBODY = UUID(int=0), UUID(int=2**128 - 1)


def principal(**changes) -> Principal:
    usual = {"user_id": uuid7(), "organization_id": uuid7(), "role": "member", "plan": "free"}
    return Principal(**usual | changes)


def context(**changes) -> UserExecutionContext:
    usual = {
        "principal": principal(),
        "thread_id": uuid7(),
        "run_id": uuid7(),
        "step_id": 1,
        "step": "one",
        "attempt": 1,
        "worker": uuid7(),
        "agent": "first",
        "goal": "Save.",
        "dataset_id": None,
        "deadline_at": datetime.now(UTC) + timedelta(minutes=1),
    }
    return UserExecutionContext(**usual | changes)


# --- What is no context ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id_", [NOBODY, EVERYBODY, None, "", "none", "01a1fc83-0726-71c5-9303-52022b7eabe7", 7])
@pytest.mark.parametrize("name", ["thread_id", "run_id", "worker", "request_id"])
def test_an_id_that_is_nobodys_is_refused(name, id_):
    with pytest.raises(InvalidContext, match="nobody"):
        context(**{name: id_})


@pytest.mark.parametrize("id_", [NOBODY, EVERYBODY, None, "undefined"])
@pytest.mark.parametrize("name", ["user_id", "organization_id"])
def test_a_principal_who_is_nobody_is_refused(name, id_):
    with pytest.raises(InvalidContext, match="nobody"):
        context(principal=principal(**{name: id_}))


@pytest.mark.parametrize("text", ["", "  ", "None", "NULL", "undefined", " placeholder "])
@pytest.mark.parametrize("name", ["step", "agent"])
def test_a_name_that_is_a_placeholder_is_refused(name, text):
    with pytest.raises(InvalidContext, match=f"{name}.*placeholder"):
        context(**{name: text})


@pytest.mark.parametrize("wrong", [{"attempt": 0}, {"attempt": -1}, {"depth": -1}, {"depth": DEEPEST + 1}])
def test_a_request_that_cannot_be_is_refused(wrong):
    with pytest.raises(InvalidContext, match="no such request"):
        context(**wrong)


def test_a_context_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        context().principal = principal()


def test_a_context_of_rows_that_belong_to_somebody_else_is_refused_and_all_are_counted():
    mine = principal()
    identity = {name: getattr(context(), name) for name in ("thread_id", "run_id", "step_id", "step", "attempt")}
    identity |= {"worker": uuid7(), "agent": "first", "goal": "", "dataset_id": None, "deadline_at": datetime.now(UTC)}
    before = scopes.as_json()

    assert context_for(mine, owners=[(mine.user_id, mine.organization_id)] * 2, **identity).principal == mine
    for stranger in ((uuid7(), mine.organization_id), (mine.user_id, uuid7())):
        with pytest.raises(ForeignContext):
            context_for(mine, owners=[(mine.user_id, mine.organization_id), stranger], **identity)
    with pytest.raises(InvalidContext):
        context_for(mine, owners=[], **identity | {"attempt": 0})

    assert (scopes.created, scopes.refused) == (before["created"] + 1, before["refused"] + 3)
    assert scopes.creation_seconds > before["creation_seconds"]
    assert (scopes.active, scopes.cleaned) == (before["active"], before["cleaned"])


# --- Names of calls --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["c1", "é" * CALL_LENGTH])
def test_a_name_that_fits_is_kept(name):
    assert call_name(name) == name


@pytest.mark.parametrize("name", ["x" * (CALL_LENGTH + 1), "null \0 character", "half a pair \ud800"])
def test_a_name_that_cannot_be_stored_becomes_another_that_can_and_always_the_same(name):
    assert call_name(name) == call_name(name) != call_name(name + "y")
    assert call_name(name).startswith(name[:5])
    assert len(call_name(name)) <= CALL_LENGTH
    assert storable(call_name(name)) == call_name(name)


# --- Requests within requests ----------------------------------------------------------------------------------------


def test_a_child_is_the_same_users_with_a_name_of_its_own():
    parent = context()

    child = parent.child(effect_key="k")

    assert (child.principal, child.run_id, child.fence) == (parent.principal, parent.run_id, parent.fence)
    assert child.trace_id == parent.trace_id == parent.run_id.hex
    assert child.request_id != parent.request_id
    assert child.resources is parent.resources
    assert (child.depth, child.effect_key, parent.effect_key) == (1, "k", None)
    assert child.child().effect_key == "k"


def test_children_go_only_so_deep():
    deepest = context()
    for _ in range(DEEPEST):
        deepest = deepest.child()

    with pytest.raises(InvalidContext, match=str(DEEPEST)):
        deepest.child()


@pytest.mark.parametrize(
    ("role", "handed_on"),
    [("viewer", "member"), ("viewer", "owner"), ("member", "owner"), ("owner", "king"), ("owner", "")],
)
def test_a_child_gets_no_more_rights(role, handed_on):
    with pytest.raises(InvalidContext, match="role"):
        context(principal=principal(role=role)).child(role=handed_on)


def test_a_child_may_get_fewer_rights_and_less_time_and_cannot_take_them_back():
    parent = context(principal=principal(role="owner"))
    soon = parent.deadline_at - timedelta(seconds=30)

    child = parent.child(role="viewer", deadline_at=soon)

    assert (child.principal.role, child.deadline_at) == ("viewer", soon)
    assert child.principal.user_id == parent.principal.user_id
    with pytest.raises(InvalidContext, match="role"):
        child.child(role="member")
    with pytest.raises(InvalidContext, match="outlast"):
        child.child(deadline_at=parent.deadline_at)


def test_a_context_is_for_its_own_run_and_user_only():
    mine = context()
    mine.require_same(mine.child(role="viewer"))

    strangers = [
        replace(mine, run_id=uuid7()),
        replace(mine, principal=replace(mine.principal, user_id=uuid7())),
        replace(mine, principal=replace(mine.principal, organization_id=uuid7())),
    ]
    for stranger in strangers:
        with pytest.raises(ForeignContext):
            mine.require_same(stranger)


# --- Scopes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [None, RuntimeError("work"), asyncio.CancelledError()])
async def test_what_was_opened_is_closed_the_last_first_also_after_an_error(failure):
    closed, before = [], scopes.as_json()

    async def close(name):
        closed.append(name)

    async def work():
        async with user_execution_scope(context()) as request:
            assert scopes.active == before["active"] + 1
            request.resources.callback(closed.append, "first")
            request.child().resources.push_async_callback(close, "second")
            folder = request.workspace()
            (folder / "notes").write_text("secret")
            request.resources.callback(lambda: closed.append(folder.exists()))
            if failure:
                raise failure
        return folder

    if failure:
        with pytest.raises(type(failure)):
            await work()
    else:
        assert not (await work()).exists()

    assert closed == [True, "second", "first"]
    assert (scopes.active, scopes.cleaned) == (before["active"], before["cleaned"] + 1)
    assert (scopes.created, scopes.creation_seconds) == (before["created"], before["creation_seconds"])


async def test_what_cannot_be_closed_keeps_nothing_else_open():
    closed, active = [], scopes.active

    with pytest.raises(ZeroDivisionError):
        async with user_execution_scope(context()) as request:
            request.resources.callback(closed.append, "first")
            request.resources.callback(lambda: 1 / 0)
            request.resources.callback(closed.append, "last")

    assert closed == ["last", "first"]
    assert scopes.active == active


async def test_scopes_side_by_side_close_their_own():
    closed = []

    async def work(name, event):
        async with user_execution_scope(context()) as request:
            request.resources.callback(closed.append, name)
            await event.wait()

    slow, quick = asyncio.Event(), asyncio.Event()
    working = [asyncio.create_task(work("slow", slow)), asyncio.create_task(work("quick", quick))]
    quick.set()
    await working[1]
    assert closed == ["quick"]
    slow.set()
    await working[0]

    assert closed == ["quick", "slow"]


# --- Who may use which tool ------------------------------------------------------------------------------------------


def tool(**changes) -> Tool:
    async def run(context, arguments):
        return arguments

    usual = {"name": "t", "description": "", "arguments": Note, "run": run, "summarize": lambda result: result.text}
    return Tool(**usual | changes)


@pytest.mark.parametrize(
    ("who", "what", "verdict"),
    [
        ({}, {}, "allowed"),
        ({"role": "viewer"}, {}, "denied"),
        ({"role": "viewer"}, {"role": "viewer"}, "allowed"),
        ({"role": "member"}, {"role": "owner"}, "denied"),
        ({"role": "owner"}, {"role": "owner"}, "allowed"),
        ({"plan": "free"}, {"plan": "early"}, "insufficient_plan"),
        ({"plan": "mid"}, {"plan": "enterprise"}, "insufficient_plan"),
        ({"plan": "enterprise"}, {"plan": "mid"}, "allowed"),
        ({"role": "viewer", "plan": "free"}, {"plan": "mid"}, "denied"),
    ],
)
def test_role_and_plan_decide_who_may_use_a_tool(who, what, verdict):
    ruling = may_use(context(principal=principal(**who)), tool(**what))

    assert ruling.verdict == verdict
    assert bool(ruling.reason) == (verdict != "allowed")


def test_tools_of_operators_are_for_operators_whatever_the_role():
    owner = principal(role="owner", plan="enterprise")

    assert may_use(context(principal=owner), tool(operators_only=True)).verdict == Verdict.DENIED
    assert may_use(context(principal=owner, operator=True), tool(operators_only=True)).verdict == Verdict.ALLOWED
    assert may_use(context(principal=principal(role="viewer"), operator=True), tool()).verdict == Verdict.DENIED


@pytest.mark.parametrize(
    ("minute", "day", "needs_approval", "approved", "verdict"),
    [
        (2, 5, False, False, "allowed"),
        (3, 5, False, False, "rate_limited"),
        (2, 6, False, False, "quota_exceeded"),
        (3, 6, True, False, "rate_limited"),
        (2, 5, True, False, "approval_needed"),
        (2, 5, True, True, "allowed"),
        (9, 9, True, True, "rate_limited"),
    ],
)
def test_rate_quota_and_leave_decide_whether_a_call_is_made(minute, day, needs_approval, approved, verdict):
    spent = Spent(last_minute=minute, last_day=day, per_minute=3, per_day=6)

    assert may_call(tool(needs_approval=needs_approval), spent, approved=approved).verdict == verdict


# --- The dispatcher --------------------------------------------------------------------------------------------------


@pytest.fixture
def held(script, rings, start):
    """The context of a step that is held."""
    run = start()
    admission.admit_one()
    return claims.claim_step(run, worker=uuid7()).context


@pytest.fixture
def dispatcher(held):
    return ToolExecutorFactory.create(held, agents.get("first"))


@pytest.fixture
def call(held):
    """Call a tool in the name of the step's user, or of a child of the request."""

    def call(name, arguments=None, *, id_="c1", dispatcher=None, **more):
        dispatcher = dispatcher or ToolExecutorFactory.create(held, agents.get("first"))
        return asyncio.run(dispatcher.execute_tool(name, arguments or {"text": "hey"}, call=id_, **more))

    return call


@pytest.mark.django_db(transaction=True)
class TestDispatcher:
    def test_it_has_the_tools_of_its_agent_that_the_user_may_use(self, held):
        tools.register(tool(name="grand", role="owner", plan="enterprise"))
        agent = Agent(name="third", description="", artifact=Note, run=None, tools=("shout", "grand"))

        dispatcher = ToolExecutorFactory.create(replace(held, principal=principal(role="member")), agent)

        assert dispatcher.has_tool("shout")
        assert not dispatcher.has_tool("grand")  # the user may not
        assert not dispatcher.has_tool("hazard")  # the agent may not
        assert not dispatcher.has_tool("nothing")
        assert [tool.name for tool in dispatcher.get_available_tools()] == ["shout"]

    def test_an_agent_that_wants_what_does_not_exist_gets_no_dispatcher(self, held):
        with pytest.raises(NotRegistered):
            ToolExecutorFactory.create(held, Agent(name="x", description="", artifact=Note, run=None, tools=("saw",)))

    def test_a_tool_of_one_step_is_nobody_elses(self, held, dispatcher, call):
        dispatcher.register_tool(tool(name="own"))

        assert call("own", dispatcher=dispatcher).status == "succeeded"
        assert call("own", id_="c2").code == "tool.denied"
        assert "own" not in tools

    @pytest.mark.parametrize(
        "taken", [{"name": "shout"}, {"name": "elsewhere", "place": Place.WORKER}, {"name": "own"}]
    )
    def test_a_tool_of_one_step_takes_no_name_and_runs_here(self, dispatcher, taken):
        dispatcher.register_tool(tool(name="own"))

        with pytest.raises(AlreadyRegistered, match=taken["name"]):
            dispatcher.register_tool(tool(**taken))

    @pytest.mark.parametrize("how", ["cleanup", "with", "scope"])
    def test_once_its_step_is_over_it_runs_nothing(self, held, how, script, thread):
        dispatcher = ToolExecutorFactory.create(held, agents.get("first"))
        if how == "cleanup":
            dispatcher.cleanup()
        elif how == "with":
            with dispatcher:
                assert dispatcher.has_tool("shout")
        else:
            asyncio.run(held.resources.aclose())

        assert not dispatcher.has_tool("shout")
        assert dispatcher.get_available_tools() == []
        with pytest.raises(Disposed):
            asyncio.run(dispatcher.execute_tool("shout", {"text": "hey"}, call="c1"))
        with pytest.raises(Disposed):
            dispatcher.register_tool(tool(name="own"))
        assert script.tool_runs == []
        assert "tool_executing" not in told(thread)

    def test_it_does_nothing_for_somebody_else(self, held, call, script, thread):
        for stranger in (replace(held, run_id=uuid7()), replace(held, principal=principal())):
            with pytest.raises(ForeignContext):
                call("shout", context=stranger)

        assert script.tool_runs == []
        assert "tool_executing" not in told(thread)

    def test_a_request_within_the_step_acts_with_its_own_rights_and_in_its_own_time(self, held, call, dispatcher):
        seen = []

        async def look(context, arguments):
            seen.append(context)
            return arguments

        dispatcher.register_tool(tool(name="look", role="viewer", run=look))
        soon = held.deadline_at - timedelta(seconds=30)

        assert call("shout", context=held.child(role="viewer")).code == "tool.denied"
        call("look", id_="c2", dispatcher=dispatcher, context=held.child(role="viewer", deadline_at=soon))

        assert (seen[0].principal.role, seen[0].deadline_at) == ("viewer", soon)
        assert seen[0].depth == 2

    def test_a_tool_acts_for_the_user_under_the_key_of_its_call(self, held, call, dispatcher):
        seen = []

        async def look(context, arguments):
            seen.append(context)
            return arguments

        dispatcher.register_tool(tool(name="look", run=look))
        call("look", dispatcher=dispatcher)
        call("look", id_="c2", dispatcher=dispatcher)

        assert [each.effect_key for each in seen] == list(
            ToolCall.objects.order_by("id").values_list("idempotency_key", flat=True)
        )
        assert seen[0].effect_key != seen[1].effect_key
        assert seen[0].principal == held.principal

    def test_a_call_made_again_is_answered_with_what_it_was_answered(self, call, script, thread):
        first = call("shout")

        assert call("shout") == first
        assert script.tool_runs == ["hey"]
        assert told(thread).count("tool_executing") == told(thread).count("tool_completed") == 1

    def test_a_call_made_again_with_something_else_is_no_such_call(self, call):
        call("shout")

        with pytest.raises(calls.ToolCallMismatch):
            call("shout", {"text": "you"})
        with pytest.raises(calls.ToolCallMismatch):
            call("hazard")

    def test_a_call_that_was_refused_stays_refused_though_it_could_be_made_now(self, call, script):
        Plan.objects.update(tool_calls_per_minute=0)
        refused = call("shout", {"text": "hey", "unknown": 1})
        Plan.objects.update(tool_calls_per_minute=9)

        assert call("shout", {"text": "hey", "unknown": 1}) == refused
        assert script.tool_runs == []

    def test_a_name_that_is_too_long_for_the_journal_is_found_again_all_the_same(self, call, script):
        names = ["n" * 500 + "1", "n" * 500 + "2"]

        assert call("shout", id_=names[0]) == call("shout", id_=names[0])
        assert call("shout", id_=names[1]).status == "succeeded"
        assert script.tool_runs == ["hey"] * 2

    def test_secrets_are_told_and_kept_by_nobody(self, call, dispatcher, thread):
        from pydantic import BaseModel

        class Login(BaseModel):
            user: str
            password: str
            headers: list[dict[str, str]]

        seen = []

        async def log_in(context, arguments):
            seen.append(arguments.password)
            return Note(text="in")

        dispatcher.register_tool(tool(name="log_in", arguments=Login, run=log_in))
        given = {"user": "alice", "password": "hunter2", "headers": [{"Authorization": "Bearer hunter2", "x": "y"}]}

        call("log_in", given, dispatcher=dispatcher)

        assert seen == ["hunter2"]
        shown = {"user": "alice", "password": "***", "headers": [{"Authorization": "***", "x": "y"}]}
        assert ToolCall.objects.get().arguments == shown
        assert [event["data"]["arguments"] for event in events_of(thread) if event["type"] == "tool_executing"] == [
            shown
        ]
        assert "hunter2" not in str(events_of(thread)) + str(ToolCall.objects.values())

    def test_secrets_of_a_refused_call_are_kept_by_nobody(self, call, thread):
        call("nothing", {"api_key": "hunter2"})

        assert "hunter2" not in str(events_of(thread)) + str(ToolCall.objects.values())

    @pytest.mark.parametrize(
        ("limits", "code"),
        [
            ({"tool_calls_per_minute": 2}, "tool.rate_limited"),
            ({"tool_calls_per_day": 2}, "tool.quota_exceeded"),
        ],
    )
    def test_more_calls_than_the_plan_allows_are_refused_and_cost_nothing(self, call, script, limits, code):
        Plan.objects.update(**limits)

        answers = [call("shout", id_=f"c{number}") for number in range(4)]

        assert [answer.status for answer in answers] == ["succeeded", "succeeded", "refused", "refused"]
        assert answers[3].code == code
        assert "2" in answers[3].detail
        assert len(script.tool_runs) == 2
        ToolCall.objects.filter(state="succeeded").update(created_at=datetime.now(UTC) - timedelta(days=2))
        assert call("shout", id_="later").status == "succeeded"

    def test_calls_of_somebody_else_do_not_count(self, call, bob):
        Plan.objects.update(tool_calls_per_minute=1)
        ToolCall.objects.update_or_create(
            run=Run.objects.get(),
            step="one",
            call="his",
            defaults={"user_id": bob.pk, "tool": "shout", "effect": "pure"},
        )

        assert call("shout").status == "succeeded"

    def test_the_plan_is_the_one_that_the_organization_has_when_the_step_is_claimed(self, start, script, rings):
        run = start()
        Organization.objects.update(plan_id=Plan.Code.ENTERPRISE)
        admission.admit_one()

        assert claims.claim_step(run, worker=uuid7()).context.principal.plan == "enterprise"

    @pytest.mark.parametrize(
        ("raised", "code"),
        [(ValueError("secret"), "tool.failed"), (MemoryError(), "tool.memory"), (TimeoutError("own"), "tool.failed")],
    )
    def test_a_tool_that_fails_is_an_answer_and_says_nothing_of_its_insides(self, call, script, thread, raised, code):
        def fail(arguments):
            raise raised

        script.tool = fail

        answer = call("shout")

        assert (answer.status, answer.code) == ("failed", code)
        assert "secret" not in answer.detail + str(events_of(thread))

    @pytest.mark.parametrize("raised", [ConnectionResetError(), TimeoutError("own"), MemoryError()])
    def test_an_unsafe_tool_that_breaks_off_may_have_taken_effect(self, call, script, raised):
        def fail(arguments):
            raise raised

        script.hazard = fail

        assert call("hazard").status == "unknown"

    @pytest.mark.parametrize(
        ("effect", "status"), [(Effect.PURE, "failed"), (Effect.IDEMPOTENT, "unknown"), (Effect.UNSAFE, "unknown")]
    )
    def test_a_tool_that_does_not_answer_in_time_has_failed_unless_it_may_have_taken_effect(
        self, call, dispatcher, thread, effect, status
    ):
        async def hang(context, arguments):
            await asyncio.Event().wait()

        dispatcher.register_tool(tool(name="hang", run=hang, deadline=0.01, effect=effect))

        answer = call("hang", dispatcher=dispatcher)

        assert (answer.status, answer.code) == (status, "tool.deadline")
        assert events_of(thread)[-1]["data"]["status"] == status


# --- The engine ------------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
class TestEngine:
    def test_a_claim_of_somebody_else_is_not_touched(self, script, rings, start, bob, as_principal, thread):
        mine = start()
        his = start(user=bob, thread_id=create_thread(principal=as_principal(bob)).pk)
        while admission.admit_one():
            pass
        my_claim, his_claim = (claims.claim_step(run, worker=uuid7()) for run in (mine, his))
        before = told(thread)

        with pytest.raises(ForeignContext):
            asyncio.run(ExecutionEngine.for_user(his_claim.context).run_step(my_claim))

        assert told(thread) == before
        assert ExecutionEngine.running() == ()

    def test_what_an_agent_opened_is_closed_when_its_step_is_over_however_it_ended(self, script, rings, start, work_on):
        closed, folders = [], []

        async def work(scope):
            folders.append(scope.context.workspace())
            scope.context.resources.callback(closed.append, scope.context.step)
            if scope.context.step == "two":
                raise RuntimeError
            return await script._note(scope)

        script.first = script.second = work
        active = scopes.active

        work_on(start())

        assert closed == ["one", "two"]
        assert not any(folder.exists() for folder in folders)
        assert ExecutionEngine.get_status() == {"running": 0, "scopes": scopes.as_json()}
        assert scopes.active == active

    def test_a_run_in_a_thread_of_somebody_else_is_nobodys_to_do(self, script, rings, start, charlie, thread):
        run = start()
        admission.admit_one()
        Thread.objects.filter(pk=thread.pk).update(user=charlie)

        with pytest.raises(ForeignContext):
            claims.claim_step(run, worker=uuid7())

    def test_who_was_removed_meanwhile_acts_as_one_who_may_only_look(self, script, rings, start, alice):
        run = start()
        Membership.objects.filter(user=alice).delete()
        admission.admit_one()

        assert claims.claim_step(run, worker=uuid7()).context.principal.role == Membership.Role.VIEWER

    def test_only_staff_are_operators(self, script, rings, start, alice):
        run = start()
        User.objects.filter(pk=alice.pk).update(is_staff=True)
        admission.admit_one()

        assert claims.claim_step(run, worker=uuid7()).context.operator

    def test_everything_that_this_process_works_on_is_given_back_at_shutdown(self, script, rings, start):
        begun = asyncio.Event()

        async def work(scope):
            begun.set()
            await asyncio.Event().wait()

        async def stop(claim):
            working = asyncio.create_task(ExecutionEngine.for_user(claim.context).run_step(claim))
            await begun.wait()
            assert ExecutionEngine.get_status()["running"] == 1
            await ExecutionEngine.shutdown()
            with pytest.raises(asyncio.CancelledError):
                await working

        script.first = work
        run = start()
        admission.admit_one()

        asyncio.run(stop(claims.claim_step(run, worker=uuid7())))

        assert ExecutionEngine.running() == ()
        assert claims.claim_step(run, worker=uuid7()).context.attempt == 2
