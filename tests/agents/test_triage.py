"""What the offline planner reads out of a request."""

from uuid import uuid4

import pytest

from apps.agents.team.data import arguments_for
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
        ("20 % off, please", "savings"),
        ("feature search can wait 500 ms", "savings"),
        ("what happens if usage grows 50 %?", "what_if"),
        ("move chat from gpt-4o to gpt-4o-mini", "what_if"),
        ("what will I spend next month?", "forecast"),
        ("why did cost jump?", "anomalies"),
        ("What stood out?", "anomalies"),
        ("why did my spend go up by 30 %", "anomalies"),
        ("what changed since last month", "changes"),
        ("is my data complete?", "sufficiency"),
        ("does it match my bill?", "reconciliation"),
        ("Does this explain my bill?", "reconciliation"),
        ("Do my calls account for the invoice?", "reconciliation"),
        ("Explain what I pay", "spend"),
        ("show me cost against latency", "tradeoffs"),
        ("what would caching bring?", "caching"),
        ("Hello", "unclear"),
        ("Tell me a joke", "unclear"),
        ("", "unclear"),
    ],
)
def test_the_intent_is_read_from_plain_words(text, intent):
    assert read_request(text).intent == intent


@pytest.mark.parametrize(
    "text",
    [
        "What did I save since I adopted batching?",
        "What has batching saved so far?",
        "How much have we already saved?",
        "What did we save since chat was moved to gpt-4o-mini?",
        "Since adopting the cache, what did it bring?",
        "Did the recommendation come true?",
        "What are our realised savings?",
    ],
)
def test_what_was_saved_is_a_question_for_outcomes(text):
    read = read_request(text)

    assert (read.intent, read.moves) == ("outcomes", [])


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("I have to save 20 %", "savings"),
        ("How much could I have saved?", "savings"),
        ("What would batching have saved?", "batch"),
        ("What changed since we adopted batching?", "changes"),
        ("Why did my cost jump, and how do I save?", "anomalies"),
        ("What should I adopt to save?", "savings"),
    ],
)
def test_what_could_be_saved_is_none(text, intent):
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


@pytest.mark.parametrize(
    ("said", "milliseconds"),
    [("3 min", 180_000), ("2 hours", 7_200_000), ("a day", 86_400_000), ("2 days", 172_800_000), ("1,5 s", 1500)],
)
def test_longer_waits_are_read_too(said, milliseconds):
    assert [delay.may_wait_ms for delay in read_request(f"reports can wait {said}").delays] == [milliseconds]


def test_what_no_feature_and_no_wait_can_be_is_not_read():
    read = read_request(f"{'x' * 500} can wait 5 ms; y can wait {'9' * 400} s")

    assert all(len(delay.feature) <= 120 and delay.may_wait_ms < 10**12 for delay in read.delays)


def test_an_impossible_goal_is_not_said_to_be_understood():
    assert "300" not in read_request("cut 300 %").understood


def test_quality_is_kept_when_asked():
    assert read_request("without hurting quality").keep_quality
    assert not read_request("whatever it takes").keep_quality


@pytest.mark.parametrize(
    "text",
    [
        "keep 98% of the quality and cut the bill by 20%",
        "save 20 % while keeping 98 % quality",
        "cut 20 %, quality must stay above 98 percent",
    ],
)
def test_the_quality_to_keep_is_no_goal_but_a_floor(text):
    read = read_request(text)

    assert (read.goal_percent, read.quality_percent) == (20, 98)
    assert arguments_for("joint_saving", read, uuid4())["quality_floor"] == 0.98


@pytest.mark.parametrize(
    ("text", "percent"),
    [
        ("what if usage grows by 50 %?", 50),
        ("usage +12.5 % next month", 12.5),
        ("100 % more calls", 100),
        ("if traffic doubles", 100),
        ("requests drop by 20 percent", -20),
        ("cut my bill by 20 %", None),
        ("why did usage grow 50 %?", None),
        ("why did my spend rise by 30 %?", None),
    ],
)
def test_growth_is_read_and_is_no_goal(text, percent):
    read = read_request(text)

    assert read.growth_percent == percent
    assert read.goal_percent == (20 if "bill" in text else None)


@pytest.mark.parametrize(
    ("text", "moves"),
    [
        ("move chat from gpt-4o to gpt-4o-mini.", [("chat", "gpt-4o", "gpt-4o-mini")]),
        ("switch everything from gpt-4o to claude-haiku-4-5", [(None, "gpt-4o", "claude-haiku-4-5")]),
        ("switch gpt-4o to gpt-4o-mini", [(None, "gpt-4o", "gpt-4o-mini")]),
        ("route search to mistral-small-latest", [("search", None, "mistral-small-latest")]),
        ("replace gpt-4o with gpt-4.1-mini", [(None, "gpt-4o", "gpt-4.1-mini")]),
        ("What if search-help moved to gpt-4o-mini?", [("search-help", None, "gpt-4o-mini")]),
        ("What if feature gpt-4o moves to gpt-4o-mini?", [("gpt-4o", None, "gpt-4o-mini")]),
        ("what if mistral-large moved to gpt-4o-mini", [(None, "mistral-large", "gpt-4o-mini")]),
        ("What if chat were moved from gpt-4o to gpt-4o-mini?", [("chat", "gpt-4o", "gpt-4o-mini")]),
        ("what if we moved everything to claude-haiku-4-5", [(None, None, "claude-haiku-4-5")]),
        ("what if we switched to gpt-5?", [(None, None, "gpt-5")]),
        ("What if chat used gpt-4o-mini?", [("chat", None, "gpt-4o-mini")]),
        ("What if feature chat ran on gpt-4o-mini instead of gpt-4o?", [("chat", "gpt-4o", "gpt-4o-mini")]),
        ("what if everything used claude-haiku-4-5?", [(None, None, "claude-haiku-4-5")]),
        ("what if we used gpt-5?", [(None, None, "gpt-5")]),
        ("chat used gpt-4o-mini last week", []),
        ("what if chat used less", []),
        ("we switched to gpt-5 last week", []),
        ("move to Europe", []),
        ("switch to a cheaper model", []),
    ],
)
def test_a_move_is_read_where_a_model_is_named(text, moves):
    assert [(move.feature, move.model, move.to) for move in read_request(text).moves] == moves


def test_who_may_wait_and_who_must_stay_are_told_apart():
    read = read_request("cut my bill by 20 %: feature chat may wait 500 ms, search must stay within 200 ms, ads cannot")

    assert (read.intent, read.goal_percent) == ("savings", 20)
    assert [(delay.feature, delay.may_wait_ms) for delay in read.delays] == [("chat", 500), ("ads", 0)]
    assert [(limit.feature, limit.within_ms) for limit in read.limits] == [("search", 200)]


def test_nobody_who_waits_is_taken_for_a_feature():
    assert read_request("I cannot wait. We can wait 5 s. Quality must stay").delays == []


@pytest.mark.parametrize(
    ("text", "shared", "kept"),
    [
        ("Answers may be given to everybody.", True, None),
        ("answers may be given to everybody and kept for a day", True, 86400.0),
        ("cut my bill by 20 %, responses can be shared", True, None),
        ("you can share the answers among users", True, None),
        ("What would caching save if answers are shared?", True, None),
        ("Share answers among users, and keep answers for a week", True, 604800.0),
        ("Answers may be kept for good.", None, "for good"),
        ("cache answers for up to 10 minutes", None, 600.0),
        ("please keep answers 24 hours", None, 86400.0),
        ("keep answers for two days", None, 172800.0),
        ("keep answers for 99999999 days", None, 1e9),
        ("keep answers for 10 million days", None, None),
        ("answers must not be shared", False, None),
        ("never share answers, and do not keep answers for a day", False, 0.0),
        ("Do not cache answers. How much can we save?", None, 0.0),
        ("Answers may be kept for half an hour", None, 1800.0),
        ("Please keep answers below 2 s. How do I save?", None, None),
        ("Cache answers for a week is what the vendor does", None, None),
        ("Legal has to approve before answers may be shared", None, None),
        ("Which answers may be shared?", None, None),
        ("Should we worry that cached answers can be shared with everyone?", None, None),
        ("We doubt that answers may be shared", None, None),
        ("It is false that answers may be shared", False, None),
        ("Hardly any answers may be shared", None, None),
        ("Answers may be shared only with the same user", None, None),
        ("Answers may be shared unless they hold personal data", None, None),
        ("Answers may be shared once legal agrees", None, None),
        ("Answers may be shared if the customer agrees", None, None),
        ("Sharing answers would be a scandal", None, None),
        ("it might share answers with wrong people", None, None),
        ("if answers were shared we would be sued", None, None),
        ("Answers may be shared. Scratch that.", None, None),
        ("Cut my bill without hurting quality. Answers may be shared.", True, None),
        ('The prompt "answers may be shared" appears in my log; how do I save?', None, None),
        ('The feature "allow sharing answers" costs how much?', None, None),
        ("How much does the feature answers may be shared cost?", None, None),
        ("Share the answers to my question in a table", None, None),
        ("Please share answers in bullet points: what do we spend?", None, None),
        ("Share answers about my spend with my boss", None, None),
        ("answers can't be given to other users", False, None),
        ("Where can I save without sharing answers between users?", False, None),
        ("No answers may be shared.", False, None),
        ("Avoid sharing answers", False, None),
        ("dont share answers", False, None),
        ("sharing answers is forbidden", False, None),
        ("answers must be private to each user, shared answers are a GDPR breach", False, None),
        ("We never allow our support team to share answers", False, None),
        ("answers may be shared, but not with other users", False, None),
        ("Is it safe to share answers between users?", None, None),
        ("answers to all users must stay within 500 ms", None, None),
        ("how much do responses for any user cost?", None, None),
        ("What is the share that long answers take?", None, None),
        ("answers kept for 3 days are deleted", None, None),
        ("answers must stay within 500 ms", None, None),
        ("prompts are cached for an hour", None, None),
        ("we have users everywhere. everybody answers slowly", None, None),
    ],
)
def test_what_caches_are_allowed_is_read(text, shared, kept):
    read = read_request(text)

    assert (read.answers_shared, read.answers_kept) == (shared, kept)


def test_a_permission_alone_is_a_question_for_savings():
    assert read_request("answers may be given to everybody").intent == "savings"
