"""What the offline planner reads out of a request."""

import pytest

from apps.agents.team.triage import read_request


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("Where can I save?", "savings"),
        ("cut my bill by 20 % without hurting quality", "savings"),
        ("What do I spend, by model and feature?", "spend"),
        ("Which calls could run as a batch?", "batch"),
        ("Do I ask the same question twice? Find duplicates", "duplicates"),
        ("Could a cheaper model do it?", "models"),
        ("Hello", "savings"),
        ("", "savings"),
    ],
)
def test_the_intent_is_read_from_plain_words(text, intent):
    assert read_request(text).intent == intent


@pytest.mark.parametrize(
    ("text", "percent"),
    [("cut 20 %", 20), ("cut 12.5% please", 12.5), ("cut 7,5 percent", 7.5), ("cut it", None), ("cut 300 %", None)],
)
def test_a_goal_is_taken_only_if_it_was_said_and_is_possible(text, percent):
    assert read_request(text).goal_percent == percent


def test_what_may_wait_is_read_in_milliseconds():
    read = read_request("feature search may wait 500 ms, and summaries can take 2 s")

    assert [(delay.feature, delay.may_wait_ms) for delay in read.delays] == [("search", 500), ("summaries", 2000)]


def test_quality_is_kept_when_asked():
    assert read_request("without hurting quality").keep_quality
    assert not read_request("whatever it takes").keep_quality
