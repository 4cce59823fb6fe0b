"""What a model answered is asked once: real steps, an endpoint that counts, and processes that die in between."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from urllib.parse import urlsplit

import pytest
from django.db import connection, connections
from pydantic_ai.models.test import TestModel
from uuid6 import uuid7

from apps.agents.runtime import THOUGHTS, ModelRefused, ModelUnavailable, converse
from apps.conversations.journal import Fenced, read
from apps.conversations.models import Run, Step
from apps.execution import claims, registry
from apps.execution.engine import ExecutionEngine
from apps.execution.registry import Completed, Interruption
from apps.llm import gateway, ledger
from apps.llm.models import ModelCall
from apps.operations.breakers import breakers
from tests.agents.conftest import Note, claim
from tests.agents.model_server import tool_call
from tests.houses import ROOT, becomes

pytestmark = pytest.mark.django_db(transaction=True)

ATTEMPT = """
import sys
from uuid import UUID
import django
django.setup()
from tests.agents.test_model_journal import attempt
attempt(UUID(sys.argv[1]))
"""


def let_go(run):
    """The step as a rescue leaves it: ready for somebody else."""
    assert Step.objects.filter(run=run, state="running").update(state="ready", worker=None) == 1


def no_draft(text):
    return "This is a draft." if text == "draft" else None


async def say(scope, prompt="Say something.", check=no_draft):
    offline, tools = TestModel(), ("shout",)
    said = await converse(
        scope, instructions="Be brief.", prompt=prompt, output=str, offline=offline, check=check, tools=tools
    )
    return said.output


def attempt(run, scope=None, *, prompts=("Say something.",)):
    """Claim the step and hold its conversations, in this process; answers what the model came to say in each."""
    scope = scope or claim(run)

    async def hold():
        return [await say(scope, prompt) for prompt in prompts]

    return asyncio.run(hold())


def calls(run):
    return list(ModelCall.objects.filter(run=run).order_by("started_at").values_list("attempt", "state"))


def test_a_second_attempt_gets_what_was_answered_and_asks_nothing(run, serve, shout):
    both = [tool_call("shout", {"text": text}, text)["tool_calls"][0] for text in ("a", "b")]
    endpoint = serve({"tool_calls": both}, {"content": "draft"}, {"content": "final"})
    assert attempt(run) == ["final"]
    let_go(run)

    assert attempt(run) == ["final"]

    assert len(endpoint.asked) == 3
    assert sorted(shout) == ["a", "b"]
    assert calls(run) == [(1, "answered")] * 3


def test_where_the_journal_ends_the_second_attempt_asks_on(run, serve):
    endpoint = serve({"content": "draft"}, {"status": 503}, {"content": "final"})
    with pytest.raises(ModelUnavailable):
        attempt(run)
    let_go(run)

    assert attempt(run) == ["final"]

    assert [message["content"] for message in endpoint.asked[2]] == [
        message["content"] for message in endpoint.asked[1]
    ]
    assert calls(run) == [(1, "answered"), (1, "cut"), (2, "answered")]


def test_a_question_asked_twice_in_a_step_gets_two_answers_and_later_the_same_two(run, serve):
    endpoint = serve({"content": "first"}, {"content": "second"})
    twice = {"prompts": ("Again.", "Again.")}
    assert attempt(run, **twice) == ["first", "second"]
    let_go(run)

    assert attempt(run, **twice) == ["first", "second"]

    assert len(endpoint.asked) == 2


def test_a_step_that_the_engine_tries_again_keeps_what_was_answered(run, serve, monkeypatch):
    endpoint = serve({"content": "draft"}, {"status": 503}, {"content": "final"})
    heard = []

    async def answer(scope):
        heard.append(await say(scope))
        return Completed(artifact=Note(text=heard[-1]), summary="")

    monkeypatch.setattr("apps.execution.engine.FIRST_WAIT", 0.0)
    agent = registry.Agent(name="triage", description="", artifact=Note, run=answer)
    monkeypatch.setattr(registry.agents, "_items", dict(registry.agents._items) | {"triage": agent})
    claimed = claims.claim_step(run, worker=uuid7())

    asyncio.run(ExecutionEngine.for_user(claimed.context).run_step(claimed))

    assert heard == ["final"]
    assert [len(messages) for messages in endpoint.asked] == [2, 4, 4]
    assert calls(run) == [(1, "answered"), (1, "cut"), (1, "answered")]


def test_another_step_asks_for_itself(run, serve):
    endpoint = serve({"content": "one"}, {"content": "two"})
    attempt(run)
    Step.objects.filter(run=run, state="running").update(state="completed")
    assert Step.objects.filter(run=run, state="blocked").update(state="ready")

    assert attempt(run) == ["two"]

    assert len(endpoint.asked) == 2


def test_a_process_killed_between_answer_and_journal_is_asked_again_and_both_calls_are_booked(
    run, serve, settings, tmp_path
):
    gate, reached = tmp_path / "model.answered", tmp_path / "model.answered.reached"
    endpoint = serve({"content": "draft"}, lambda: gate.touch() or {"content": "lost"}, {"content": "final"})
    child = subprocess.Popen(
        [sys.executable, "-c", ATTEMPT, str(run)], cwd=ROOT, env=child_environment(settings, tmp_path)
    )
    try:
        becomes(reached.exists, within=60)
        assert calls(run) == [(1, "answered"), (1, "asked")]
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    gate.unlink()
    let_go(run)

    assert attempt(run) == ["final"]

    assert len(endpoint.asked) == 3
    assert calls(run) == [(1, "answered"), (1, "cut"), (2, "answered")]
    usage = ledger.usage_of_run(run)
    assert (usage["model_calls"], usage["uncounted_calls"], usage["cost_usd"]) == (3, 1, None)
    assert usage["priced_usd"] == "0.000054"


def child_environment(settings, points):
    database = urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{connection.settings_dict['NAME']}")
    return os.environ | {
        "DATABASE_URL": database.geturl(),
        "DJANGO_SETTINGS_MODULE": "netra.settings",
        "NETRA_DEBUG_POINTS": str(points),
        "NETRA_LLM_BASE_URL": settings.LLM_BASE_URL,
        "NETRA_LLM_MODEL": settings.LLM_MODEL,
    }


def test_an_answer_that_comes_after_the_step_was_taken_over_is_booked_and_not_kept(run, serve):
    taken = []

    def overtaken():
        let_go(run)
        taken.append(claim(run))
        connections.close_all()
        return {"content": "stale"}

    serve(overtaken, {"content": "fresh"})

    with pytest.raises(Fenced):
        attempt(run)

    stale = ModelCall.objects.get()
    assert (stale.state, stale.answer, stale.input_tokens) == ("cut", None, 100)
    assert stale.cost_usd is not None
    assert attempt(run, taken[0]) == ["fresh"]
    assert calls(run) == [(1, "cut"), (2, "answered")]


def test_a_call_that_is_cancelled_is_booked_with_what_is_known(run, serve):
    asked, answer = threading.Event(), threading.Event()
    serve(lambda: asked.set() or (answer.wait(30) and {"content": "too late"}))
    scope = claim(run)

    async def stop():
        saying = asyncio.create_task(say(scope))
        await asyncio.to_thread(asked.wait, 30)
        saying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saying

    asyncio.run(stop())
    answer.set()

    call = ModelCall.objects.get()
    assert (call.state, call.input_tokens, call.cost_usd) == ("cut", None, None)
    assert call.seconds is not None
    assert call.finished_at is not None


def test_what_a_killed_process_left_open_is_cut_when_the_run_ends(run, as_principal, alice):
    asker = ledger.Asker(principal=as_principal(alice), run=run, step="triage", attempt=1)
    ledger.ask(asker, key="k", provider="p", model="m")

    ledger.close_run(run)

    assert calls(run) == [(1, "cut")]


def test_what_was_answered_can_be_forgotten_and_stays_on_the_bill(run, serve):
    serve({"content": "final"})
    attempt(run)

    ledger.forget([run])

    call = ModelCall.objects.get()
    assert (call.answer, call.input_tokens) == (None, 100)


@pytest.mark.parametrize("odd", ["nul \x00", "spelled \\u0000", "half \ud83d", "ü 🎉 \u2028"])
def test_an_answer_of_odd_characters_is_the_same_in_both_attempts(run, serve, odd):
    serve({"content": odd})
    first = attempt(run)
    let_go(run)

    assert attempt(run) == first


def test_what_a_model_thought_is_told_once(run, serve):
    serve({"thought": "Hm, saving.", "content": "final"})
    attempt(run)
    let_go(run)
    attempt(run)

    thread = Run.objects.get(pk=run).thread_id
    thoughts = [e["data"]["thought"] for e in read(thread=thread, after=0, limit=99) if e["type"] == "agent_thinking"]
    assert thoughts == ["Hm, saving."]


def test_of_endless_thoughts_the_beginning_is_told(run, serve):
    serve({"thought": "Hm, saving. " * 10_000, "content": "final"})
    attempt(run)

    told = [
        e for e in read(thread=Run.objects.get(pk=run).thread_id, after=0, limit=99) if e["type"] == "agent_thinking"
    ]
    assert len(told) == THOUGHTS
    assert told[0]["data"]["thought"].startswith("Hm, saving. Hm")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_the_endpoint_refuses_is_not_worth_a_retry_and_says_what_to_check(run, serve, status):
    endpoint = serve({"status": status})

    with pytest.raises(ModelRefused, match="Check ") as refused:
        attempt(run)

    assert not refused.value.retryable
    assert str(status) in refused.value.detail
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_an_endpoint_that_is_overloaded_or_broken_may_answer_later(run, serve, status):
    endpoint = serve({"status": status})

    with pytest.raises(ModelUnavailable) as unavailable:
        attempt(run)

    assert unavailable.value.retryable
    assert len(endpoint.asked) == 1


def test_an_endpoint_that_cannot_be_reached_may_answer_later(run, settings):
    settings.LLM_BASE_URL, settings.LLM_MODEL = "http://127.0.0.1:9/v1", "gpt-4o-mini"

    with pytest.raises(ModelUnavailable):
        attempt(run)

    assert calls(run) == [(1, "cut")]


def test_the_endpoints_client_is_closed_with_its_loop(run, serve):
    serve({"content": "final"})

    attempt(run)

    assert not gateway._endpoints


def test_a_breaker_that_is_open_stops_what_was_never_asked_and_nothing_else(run, serve):
    endpoint = serve({"content": "draft"}, {"content": "final"})
    assert attempt(run) == ["final"]
    let_go(run)
    breakers().force_open("model:127.0.0.1:gpt-4o-mini")

    scope = claim(run)
    assert attempt(run, scope) == ["final"]
    with pytest.raises(Interruption):
        attempt(run, scope, prompts=("Something new.",))

    assert len(endpoint.asked) == 2
    assert calls(run) == [(1, "answered")] * 2
