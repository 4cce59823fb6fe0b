"""`manage.py breakers`: a word to a breaker that there is, and a refusal of a name that nobody knows."""

import json
from io import StringIO

import pytest
from django.core.management import call_command

from apps.execution.registry import tools
from apps.llm.gateway import _names
from apps.operations.breakers import breakers

WORDS = ("--force-open", "--disable", "--reset")


def say(*words):
    """Exit code, what is printed as a document, and what is said on stderr."""
    out, complaint = StringIO(), StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("breakers", *words, "--json", stdout=out, stderr=complaint)
    return ended.value.code, json.loads(out.getvalue()), complaint.getvalue()


def states():
    return {status["name"]: status["state"] for status in breakers().statuses()}


@pytest.mark.parametrize("word", WORDS)
def test_a_name_that_nobody_knows_is_refused_with_those_that_are(word):
    code, told, complaint = say(word, "nosuch")

    assert (code, told["code"]) == (2, "breaker.unknown")
    assert "No breaker is named 'nosuch'." in complaint
    for tool in tools:
        assert f"tool:{tool.name}" in complaint
    assert states() == {}


def test_a_name_that_is_nearly_right_is_put_right():
    code, _, complaint = say("--force-open", "spend_breakdown")

    assert code == 2
    assert "Did you mean tool:spend_breakdown?" in complaint


def test_a_tool_that_nobody_has_called_yet_can_be_switched():
    code, told, _ = say("--force-open", "tool:spend_breakdown")

    assert code == 0
    assert [(each["name"], each["state"]) for each in told["breakers"]] == [("tool:spend_breakdown", "forced_open")]


@pytest.mark.parametrize("url", ["http://Models.example.com:8000/v1", f"http://{'a' * 60}.{'b' * 60}.example/v1"])
def test_the_configured_model_can_be_switched_before_it_is_asked(settings, url):
    settings.LLM_BASE_URL, settings.LLM_MODEL = url, "gpt-4o-mini"
    model, host = _names()

    assert say("--disable", f"model:{host}:{model}")[0] == 0
    assert states() == {f"model:{host}:gpt-4o-mini": "disabled"}


def test_a_breaker_of_something_that_is_gone_can_be_switched_and_a_reset_removes_it():
    breakers().force_open("tool:of_an_earlier_release")

    assert say("--disable", "tool:of_an_earlier_release")[0] == 0
    code, told, _ = say("--reset", "tool:of_an_earlier_release")

    assert (code, told["breakers"]) == (0, [])
    assert states() == {}


def test_a_reset_closes_the_breaker_of_a_tool_that_is_there():
    say("--force-open", "tool:spend_breakdown")
    say("--reset", "tool:spend_breakdown")

    assert states() == {"tool:spend_breakdown": "closed"}
