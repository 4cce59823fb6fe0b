"""What passes between a model and its tools, and what becomes of a model that does not do its part."""

import asyncio
import json

import pytest
from pydantic import BaseModel, Field
from pydantic_ai.models.test import TestModel

from apps.agents.runtime import MENDS, TURNS, ModelConfused, ModelRefused, converse
from apps.conversations.models import ToolCall
from apps.execution import registry
from tests.agents.conftest import Note, claim
from tests.agents.model_server import tool_call

pytestmark = pytest.mark.django_db(transaction=True)


class Sum(BaseModel):
    """A sum."""

    total: int = Field(ge=0)


def talk(run, **more):
    """The conversation of a step about a sum, and what the model was told in its last turn."""
    scope = claim(run)
    asked = {"instructions": "Add.", "prompt": "1 + 2?", "output": Sum, "offline": TestModel(), "tools": ("shout",)}
    return asyncio.run(converse(scope, **(asked | more)))


def final(**fields):
    return tool_call("final_result", fields, "call_final")


def told(endpoint, turn):
    """What the tools answered before a turn."""
    return [json.loads(message["content"]) for message in endpoint.asked[turn] if message["role"] == "tool"]


def test_a_typed_output_is_handed_in_by_a_call(run, serve):
    serve(final(total=3))

    assert talk(run).output == Sum(total=3)


def test_the_model_reads_what_its_tools_answered_in_the_order_of_its_calls(run, serve, shout):
    both = [tool_call("shout", {"text": text}, text)["tool_calls"][0] for text in ("a", "b")]
    endpoint = serve({"tool_calls": both}, final(total=3))

    said = talk(run)

    assert [answer["result"] for answer in told(endpoint, 1)] == [{"text": "A"}, {"text": "B"}]
    assert sorted(answer.result["text"] for answer in said.answers) == ["A", "B"]


def test_an_output_that_does_not_fit_is_sent_back_with_what_is_wrong(run, serve):
    endpoint = serve(final(total=-1), final(total=3))

    assert talk(run).output == Sum(total=3)
    [complaint] = told(endpoint, 1)
    assert complaint[0]["loc"] == ["total"]


@pytest.mark.parametrize("poor", [final(total=-1), {"content": "Three."}, {"content": ""}])
def test_a_model_that_never_hands_in_its_output_is_given_up(run, serve, poor):
    endpoint = serve(*[poor] * (MENDS + 1))

    with pytest.raises(ModelConfused):
        talk(run)

    assert len(endpoint.asked) == MENDS + 1


def test_a_complaint_does_not_repeat_what_it_is_about(run, serve):
    endpoint = serve(final(total="x" * 20_000), final(total=3))

    talk(run)

    assert len(json.dumps(told(endpoint, 1))) < 1000


def test_a_check_that_breaks_is_no_complaint(run, serve):
    serve(final(total=3))

    with pytest.raises(ValueError, match="nonsense"):
        talk(run, check=lambda said: int("nonsense"))


def test_a_result_that_nobody_offered_is_no_answer_in_words(run, serve):
    endpoint = serve(tool_call("final_result", {"junk": 1}), {"content": "Three."})

    assert talk(run, output=str).output == "Three."
    assert told(endpoint, 1)[0]["status"] == "refused"


def test_what_a_check_complains_about_can_be_mended(run, serve):
    serve(final(total=4), final(total=3))

    assert talk(run, check=lambda said: "Count again." if said.total == 4 else None).output == Sum(total=3)


def test_calls_beside_the_output_are_not_made(run, serve, shout):
    beside = tool_call("shout", {"text": "a"})["tool_calls"] + final(total=3)["tool_calls"]
    serve({"tool_calls": beside})

    assert talk(run).output == Sum(total=3)
    assert not shout


def test_a_tool_that_is_not_offered_is_answered_and_not_journaled(run, serve, shout):
    endpoint = serve(tool_call("drop_tables", {}), final(total=3))

    assert talk(run).output == Sum(total=3)
    [answer] = told(endpoint, 1)
    assert answer["status"] == "refused"
    assert "shout" in answer["detail"]
    assert not ToolCall.objects.exists()


@pytest.mark.parametrize("arguments", ["{", "[1]", "null and void", '{"text":' + "[" * 100_000])
def test_arguments_that_are_no_object_are_answered(run, serve, shout, arguments):
    call = {"id": "c", "type": "function", "function": {"name": "shout", "arguments": arguments}}
    endpoint = serve({"tool_calls": [call]}, final(total=3))

    assert talk(run).output == Sum(total=3)
    assert told(endpoint, 1)[0]["status"] == "refused"
    assert not shout


def test_arguments_that_do_not_fit_the_tool_are_answered(run, serve, shout):
    endpoint = serve(tool_call("shout", {"txt": "a"}), final(total=3))

    assert talk(run).output == Sum(total=3)
    assert "text" in told(endpoint, 1)[0]["detail"]
    assert not shout


def test_a_call_that_is_refused_to_the_model_says_why(run, serve, shout):
    endpoint = serve(tool_call("shout", {"text": "a"}), final(total=3))

    assert talk(run, refuse=lambda arguments: "Not so loud.").output == Sum(total=3)
    assert told(endpoint, 1) == [{"status": "refused", "result": None, "detail": "Not so loud."}]
    assert not shout


def test_a_model_that_goes_round_in_circles_is_stopped(run, serve, shout):
    endpoint = serve(*[tool_call("shout", {"text": "again"})] * (TURNS + 1))

    with pytest.raises(ModelConfused):
        talk(run)

    assert len(endpoint.asked) == TURNS


def test_an_answer_that_the_endpoint_filtered_is_not_asked_for_again(run, serve):
    endpoint = serve({"content": "", "finish": "content_filter"})

    with pytest.raises(ModelRefused):
        talk(run)

    assert len(endpoint.asked) == 1


def test_one_call_that_has_to_wait_does_not_cut_off_another(run, serve, monkeypatch):
    done = []

    async def slow(context, arguments):
        await asyncio.sleep(0)
        done.append(arguments.text)
        return arguments

    loud = registry.Tool(name="shout", description="", arguments=Note, run=slow, summarize=lambda note: note.text)
    asks = registry.Tool(
        name="ask", description="", arguments=Note, run=slow, summarize=lambda note: note.text, needs_approval=True
    )
    monkeypatch.setattr(registry.tools, "_items", {"shout": loud, "ask": asks})
    both = [tool_call(name, {"text": name}, name)["tool_calls"][0] for name in ("ask", "shout")]
    serve({"tool_calls": both})

    with pytest.raises(registry.Interruption):
        talk(run, tools=("ask", "shout"))

    assert done == ["shout"]
    assert ToolCall.objects.get().state == "succeeded"
