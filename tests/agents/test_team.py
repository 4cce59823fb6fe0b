"""The whole team on a real model class: a local server plays the model, and may try to lie."""

import asyncio
import json
from pathlib import Path

import pytest
from uuid6 import uuid7

from apps.agents.models import Report
from apps.conversations import journal
from apps.conversations import services as conversations
from apps.conversations.models import Message, Run, ToolCall
from apps.execution import admission, claims
from apps.execution import services as execution
from apps.execution.engine import ExecutionEngine
from apps.optimization import imports
from apps.optimization import services as optimization
from tests.agents.model_server import model_server, tool_call

pytestmark = pytest.mark.django_db(transaction=True)

CALLS = """timestamp,model,prompt_tokens,completion_tokens,feature
2026-01-01T00:00:00Z,gpt-4o,1000000,0,search
2026-01-01T00:01:00Z,gpt-4o,1000000,0,search
2026-01-01T00:02:00Z,gpt-4o-mini,1000000,0,summary
"""


@pytest.fixture(autouse=True)
def _no_worker(monkeypatch, settings, tmp_path):
    monkeypatch.setattr("apps.execution.doorbell._ring", lambda run: None)
    monkeypatch.setattr("apps.optimization.tasks.import_dataset.apply_async", lambda *_, **__: None)
    settings.NETRA_HOME, settings.MEDIA_ROOT = tmp_path, tmp_path / "files"


@pytest.fixture
def dataset(as_principal, alice, tmp_path):
    file = tmp_path / "calls.csv"
    file.write_text(CALLS)
    made = optimization.create_dataset(principal=as_principal(alice), upload=optimization.LocalFile(Path(file)))
    imports.run_import(made.pk)
    made.refresh_from_db()
    assert made.state == "ready", made.error_detail
    return made


@pytest.fixture
def ask(as_principal, alice):
    def ask(text, user=alice, dataset=None):
        principal = as_principal(user)
        thread = conversations.create_thread(principal=principal)
        started = execution.start_run(principal=principal, thread_id=thread.pk, text=text, dataset=dataset)
        while admission.admit_one():
            pass
        while context := claims.claim_step(started.run, worker=uuid7()):
            asyncio.run(ExecutionEngine.for_user(context).run_step())
        return Run.objects.get(pk=started.run)

    return ask


def answer_of(run):
    return Message.objects.get(run=run, role="assistant").text


def test_the_offline_team_answers_with_what_it_computed(ask, dataset):
    run = ask("Where can I save? 50 % less, please", dataset=dataset.pk)

    report = Report.objects.get(run=run.pk).body
    assert run.state == "completed"
    assert "cost **$5.15**" in answer_of(run)
    assert "Your goal of 50 % is $2.58" in answer_of(run)
    calls = set(ToolCall.objects.filter(run=run).values_list("call", flat=True))
    assert {finding["source"] for finding in report["findings"]} <= calls
    assert report["summary"] == answer_of(run)
    thoughts = [
        e["data"]["thought"]
        for e in journal.read(thread=run.thread_id, after=0, limit=99)
        if e["type"] == "agent_thinking"
    ]
    assert not any("not computed" in thought for thought in thoughts)


def test_without_a_dataset_the_answer_says_what_to_bring(ask):
    run = ask("Where can I save?")

    assert run.state == "completed"
    assert "Drop an export" in answer_of(run)


def test_the_newest_dataset_of_the_organization_is_taken_and_nobody_elses(ask, dataset, bob, charlie):
    assert "$5.15" in answer_of(ask("What do I spend?", user=bob))
    assert "$5.15" not in answer_of(ask("What do I spend?", user=charlie))


def test_another_organizations_dataset_cannot_be_asked_about(ask, dataset, charlie):
    with pytest.raises(optimization.DatasetNotFound):
        ask("What do I spend?", user=charlie, dataset=dataset.pk)


def playing(dataset, summaries):
    """A model that triages, calls two tools, and then words the summary, one attempt after the other."""
    left = list(summaries)

    def reply(body):
        wanted = {tool["function"]["name"] for tool in body.get("tools", [])}
        answered = [message for message in body["messages"] if message["role"] == "tool"]
        if "dataset_overview" in wanted:
            if len(answered) < 2:
                name = ("dataset_overview", "spend_breakdown")[len(answered)]
                return tool_call(name, {"dataset": str(dataset.pk)}, call=f"call_{len(answered)}")
            return tool_call("final_result", {"note": "measured"})
        if "final_result" in wanted:
            return tool_call("final_result", {"intent": "spend", "understood": "Show the spend."})
        return {"content": left.pop(0)}

    return reply


@pytest.fixture
def online(settings):
    def start(url):
        settings.LLM_BASE_URL, settings.LLM_MODEL, settings.LLM_API_KEY = url, "gpt-4o-mini", "k"

    return start


def test_a_model_words_the_answer_and_its_calls_are_booked(ask, dataset, online):
    with model_server(playing(dataset, ["You spent $5.15."])) as url:
        online(url)
        run = ask("What do I spend?", dataset=dataset.pk)

    assert run.state == "completed"
    assert answer_of(run) == "You spent $5.15."
    assert run.usage["model_calls"] == 5


def test_a_model_that_invents_a_number_is_sent_back(ask, dataset, online):
    with model_server(playing(dataset, ["Save $1,234 now!", "You spent $5.15."])) as url:
        online(url)
        run = ask("What do I spend?", dataset=dataset.pk)

    assert answer_of(run) == "You spent $5.15."


def test_a_model_that_keeps_inventing_never_reaches_the_person(ask, dataset, online):
    with model_server(playing(dataset, ["Save $1,234 now!"] * 5)) as url:
        online(url)
        run = ask("What do I spend?", dataset=dataset.pk)

    told = json.dumps(journal.read(thread=run.thread_id, after=0, limit=500))
    assert "1,234" not in told
    assert run.state == "completed"
    assert "cost **$5.15**" in answer_of(run)


def test_an_endpoint_that_fails_ends_the_run_with_a_sentence(ask, dataset, online):
    with model_server(lambda body: {"status": 500}) as url:
        online(url)
        run = ask("What do I spend?", dataset=dataset.pk)

    assert (run.state, run.error_code) == ("failed", "model.unavailable")
