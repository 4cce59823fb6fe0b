"""What people may do with runs over REST while their plan, their role or their place changes, and how much at once."""

from dataclasses import replace
from uuid import UUID

import pytest
from rest_framework.test import APIClient

from apps.accounts import services as accounts
from apps.accounts.models import Membership, Organization, Plan
from apps.conversations.models import Message, Run
from apps.conversations.services import create_thread
from apps.execution.registry import Tool, agents, tools
from tests.execution.conftest import Note, assert_well_told, state_of, told

pytestmark = pytest.mark.django_db(transaction=True)

ITEM = {"field": "f", "why": "", "unlocks": "", "worth_usd": None, "how_to_export": ""}


@pytest.fixture(autouse=True)
def _scripted(script, rings):
    """Every test here runs scripted agents."""


@pytest.fixture
def bobs(as_principal, bob):
    return create_thread(principal=as_principal(bob))


@pytest.fixture
def outcomes(script):
    """The first agent calls a tool that needs leave and a better plan; how that went."""
    outcomes = []

    async def run(context, arguments):
        script.tool_runs.append(arguments.text)
        return arguments

    async def act(scope):
        outcomes.append(await scope.tools.execute_tool("costly", {"text": "hey"}, call="c1"))
        return await script._note(scope)

    tools.register(
        Tool(
            name="costly",
            description="",
            arguments=Note,
            run=run,
            summarize=lambda result: result.text,
            needs_approval=True,
            plan=Plan.Code.MID,
        )
    )
    agents._items["first"] = replace(agents.get("first"), tools=("costly",))
    script.first = act
    return outcomes


@pytest.fixture
def asking(outcomes, acme, bob, bobs, start, work_on):
    """A run of Bob, a member, that waits for his leave."""
    Organization.objects.filter(pk=acme.pk).update(plan=Plan.Code.MID)
    run = start(user=bob, thread_id=bobs.pk)
    work_on(run)
    assert state_of(run) == Run.State.WAITING
    return run


def answer(client, run, value="approve"):
    response = client.post(f"/api/runs/{run}/answer/", {"value": value})
    return response.status_code, response.json().get("code")


def cancel(client, run):
    response = client.post(f"/api/runs/{run}/cancel/")
    return response.status_code, response.json().get("code")


# --- Rights that change while a run waits ----------------------------------------------------------------------------


def test_leave_given_under_the_better_plan_is_worth_nothing_under_the_lesser(
    asking, outcomes, script, acme, bob, bobs, client_for, work_on
):
    Organization.objects.filter(pk=acme.pk).update(plan=Plan.Code.FREE)

    assert answer(client_for(bob), asking) == (200, None)
    work_on(asking)

    assert (outcomes[0].status, outcomes[0].code, script.tool_runs) == ("refused", "tool.insufficient_plan", [])
    assert state_of(asking) == Run.State.COMPLETED
    assert_well_told(bobs)


def test_one_who_may_only_look_by_now_neither_answers_nor_stops(asking, alice, bob, as_principal, client_for):
    accounts.change_role(as_principal(alice), user_id=bob.pk, role=Membership.Role.VIEWER)

    assert answer(client_for(bob), asking) == (403, "permission.denied")
    assert cancel(client_for(bob), asking) == (403, "permission.denied")
    assert state_of(asking) == Run.State.WAITING


def test_a_reading_key_neither_answers_nor_stops(asking, bob, as_principal):
    _, text = accounts.create_api_key(as_principal(bob), name="k", scope="read", days=1)
    client = APIClient(headers={"Authorization": f"Bearer {text}"})

    assert client.get(f"/api/runs/{asking}/").status_code == 200
    assert answer(client, asking) == (403, "permission.denied")
    assert cancel(client, asking) == (403, "permission.denied")
    assert state_of(asking) == Run.State.WAITING


def test_a_writing_key_answers(asking, outcomes, bob, as_principal, work_on):
    _, text = accounts.create_api_key(as_principal(bob), name="k", scope="write", days=1)

    assert answer(APIClient(headers={"Authorization": f"Bearer {text}"}), asking) == (200, None)
    work_on(asking)

    assert outcomes[0].status == "succeeded"


def test_one_who_was_removed_neither_sees_answers_nor_stops_and_owners_do_not_for_them(
    asking, alice, bob, charlie, as_principal, client_for
):
    accounts.remove_member(as_principal(alice), user_id=bob.pk)

    for client in (client_for(bob), client_for(alice)):
        assert client.get(f"/api/runs/{asking}/").status_code in (403, 404)
        assert answer(client, asking)[0] in (403, 404)
        assert cancel(client, asking)[0] in (403, 404)
    # Nor from another organization of theirs.
    Membership.objects.create(
        organization=Membership.objects.get(user=charlie).organization, user=bob, role=Membership.Role.OWNER
    )
    assert answer(client_for(bob), asking) == (404, "run.not_found")
    assert state_of(asking) == Run.State.WAITING


def test_the_run_of_one_who_was_removed_after_giving_leave_calls_nothing(
    asking, outcomes, script, alice, bob, bobs, as_principal, client_for, work_on
):
    assert answer(client_for(bob), asking) == (200, None)
    accounts.remove_member(as_principal(alice), user_id=bob.pk)

    work_on(asking)

    assert (outcomes[0].status, outcomes[0].code, script.tool_runs) == ("refused", "tool.denied", [])
    assert state_of(asking) == Run.State.COMPLETED
    assert_well_told(bobs)


def test_a_queued_run_of_one_who_was_removed_calls_nothing(
    outcomes, script, alice, bob, bobs, as_principal, start, work_on
):
    run = start(user=bob, thread_id=bobs.pk)
    accounts.remove_member(as_principal(alice), user_id=bob.pk)

    work_on(run)

    assert (outcomes[0].code, script.tool_runs) == ("tool.denied", [])


# --- Too much at once ------------------------------------------------------------------------------------------------


@pytest.fixture
def ask(client_for, alice):
    client = client_for(alice)

    def ask(thread, text="Hello", **headers):
        return client.post(f"/api/threads/{thread.pk}/messages/", {"text": text}, headers=headers)

    return ask


def test_no_more_runs_are_queued_than_the_plan_allows_and_nothing_is_kept_of_one_that_is_refused(
    ask, thread, client_for, alice, bob, bobs
):
    Plan.objects.update(max_queued_runs=2)
    assert [ask(thread).status_code for _ in range(2)] == [202, 202]

    refused = ask(thread, "One too many")

    assert (refused.status_code, refused.json()["code"]) == (429, "run.too_many_queued")
    assert int(refused.headers["Retry-After"]) > 0
    assert "stop" in refused.json()["detail"]
    assert not Message.objects.filter(text="One too many").exists()
    assert told(thread) == ["message_created", "run_queued"] * 2
    # Others have places of their own.
    others = client_for(bob).post(f"/api/threads/{bobs.pk}/messages/", {"text": "Hello"})
    assert others.status_code == 202


def test_a_place_in_the_queue_is_free_again_when_a_run_has_started_or_was_stopped(
    ask, thread, client_for, alice, work_on
):
    Plan.objects.update(max_queued_runs=1)
    first = UUID(ask(thread).json()["run"])
    assert ask(thread).status_code == 429

    work_on(first)
    second = ask(thread)
    assert second.status_code == 202
    assert cancel(client_for(alice), second.json()["run"])[0] == 200

    assert ask(thread).status_code == 202


def test_a_message_that_was_taken_may_be_sent_again_under_its_key_though_no_more_are_taken(ask, thread):
    Plan.objects.update(max_queued_runs=1)
    taken = ask(thread, **{"Idempotency-Key": "k1"})

    assert ask(thread, **{"Idempotency-Key": "k2"}).status_code == 429
    again = ask(thread, **{"Idempotency-Key": "k1"})

    assert (again.status_code, again.json()) == (202, taken.json())


@pytest.mark.parametrize("how", ["answer", "message"])
def test_who_can_queue_nothing_more_can_still_answer(
    how, ask, script, as_principal, client_for, alice, thread, work_on
):
    heard = []

    async def ask_for_data(scope):
        heard.append(await scope.ask_for_data(ITEM))
        return await script._note(scope)

    script.first = ask_for_data
    waiting = UUID(ask(thread).json()["run"])
    work_on(waiting)
    Plan.objects.update(max_queued_runs=1, max_running_runs=1)
    other = create_thread(principal=as_principal(alice))
    assert [ask(other).status_code for _ in range(2)] == [202, 429]

    if how == "answer":
        assert answer(client_for(alice), waiting, "yes") == (200, None)
    else:
        assert ask(thread, "yes").json()["run"] == str(waiting)
    work_on(waiting)

    assert state_of(waiting) == Run.State.COMPLETED
    assert len(heard) == 1
