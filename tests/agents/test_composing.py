"""A report holds what the tools computed, says where it is from, and nothing else."""

from uuid import uuid4

import pytest

from apps.agents.artifacts import (
    FeatureDelay,
    Findings,
    JointSaving,
    Measurement,
    Missing,
    Part,
    Saving,
    ToolResult,
    Triage,
)
from apps.agents.composing import compose
from apps.agents.evidence import facts_in, facts_of, unsupported_numbers

TRIAGE = Triage(intent="savings", understood="Save.", goal_percent=20, keep_quality=True)


def saving(title, amount, up_to=False):
    return Saving(
        title=title,
        saving_usd=amount,
        evidence="E0" if up_to else "E2",
        up_to=up_to,
        how=f"Try {title}.",
        latency="Same.",
    )


@pytest.fixture
def findings():
    overview = Measurement(
        headline="Your 100 calls cost **$50.00**. Your log says $51.00.",
        spend_usd="50",
        missing=[Missing(field="prompt", why="Because.", unlocks="caching", how_to_export="Export it.")],
        notes=["2 rows were left out."],
    )
    savings = Measurement(headline="Repeats.", savings=[saving("Cache", "2.5"), saving("Swap", "30", up_to=True)])
    unknown = Measurement(headline="", savings=[saving("Batch", None)])
    return Findings(
        dataset_id=uuid4(),
        dataset_name="March",
        results=[
            ToolResult(call="1-dataset_overview", tool="dataset_overview", result=overview),
            ToolResult(call="2-exact_cache", tool="exact_cache", result=savings),
            ToolResult(call="3-batch", tool="batch_eligible_spend", result=unknown),
        ],
        failures=["model_swap_ceiling took longer than 60 s."],
    )


def test_what_is_proven_comes_before_ceilings_and_findings_name_the_call_they_came_from(findings):
    report = compose(TRIAGE, findings)

    assert [(f.title, f.source) for f in report.findings] == [
        ("Cache", "2-exact_cache"),
        ("Swap", "2-exact_cache"),
        ("Batch", "3-batch"),
    ]


def test_a_ceiling_is_called_a_ceiling_and_an_unknown_is_called_unknown(findings):
    summary = compose(TRIAGE, findings).summary

    assert "**At most, and not proven:** up to **$30.00** (evidence E0): Swap." in summary
    assert "**Proven on your own calls:** **$2.50** (evidence E2): Cache." in summary
    assert "Not known yet: Batch." in summary


def test_the_answer_begins_with_the_bill_and_ends_with_how_the_log_was_read(findings):
    paragraphs = compose(TRIAGE, findings).summary.split("\n\n")

    assert paragraphs[0] == "**March:** Your 100 calls cost **$50.00**."
    assert [paragraph.partition(":")[0] for paragraph in paragraphs[1:5]] == [
        "Your goal of 20 % is $10.00; without touching quality, none of these ways reaches it alone.",
        "**Proven on your own calls",
        "**At most, and not proven",
        "**Do first",
    ]
    assert paragraphs[4].startswith("**Do first:** Try Cache.")
    assert paragraphs.index("Your log says $51.00.") > 3
    assert paragraphs[-3] == "- **prompt** unlocks caching. Export it."
    assert paragraphs[-2:] == ["How your log was read:", "- 2 rows were left out."]


@pytest.mark.parametrize(("amount", "order"), [("9", [1, 0]), ("1", [0, 1])])
def test_what_its_owner_has_to_allow_is_said_as_that_and_the_larger_comes_first(findings, amount, order):
    asked = saving("Cache, if shared", amount).model_copy(update={"needs": "answers may be given to everybody"})
    more = ToolResult(call="s", tool="joint_saving", result=Measurement(headline="", savings=[asked]))
    report = compose(TRIAGE, findings.model_copy(update={"results": [*findings.results, more]}))

    lines = [
        "**Proven on your own calls:** **$2.50**",
        f"**If you allow it, replayed on your own calls:** **${amount}.00**",
    ]
    places = [report.summary.index(line) for line in lines]
    assert sorted(range(2), key=places.__getitem__) == order
    assert unsupported_numbers(report.summary, facts=facts_of(report)) == []


def test_a_saving_of_nothing_is_neither_proven_nor_the_first_thing_to_do(findings):
    nothing = Measurement(headline="No repeats.", savings=[saving("Cache", "0")])
    findings = findings.model_copy(
        update={"results": [findings.results[0], ToolResult(call="c", tool="exact_cache", result=nothing)]}
    )

    summary = compose(TRIAGE, findings).summary

    assert "Proven" not in summary
    assert "Do first" not in summary
    assert "No saving was found" in summary


@pytest.mark.parametrize("may_wait_ms", [500, 2000, 7_200_000])
def test_a_short_wait_is_repeated_and_said_to_be_of_no_use_for_a_batch(findings, may_wait_ms):
    delays = [FeatureDelay(feature="search", may_wait_ms=may_wait_ms)]
    summary = compose(TRIAGE.model_copy(update={"delays": delays}), findings).summary

    assert "I understood that **search** can wait" in summary
    assert "it is not used in these computations" in summary
    assert "deadline_seconds" not in summary


def test_a_wait_of_a_day_says_how_to_make_it_count(findings):
    delays = [FeatureDelay(feature="reports", may_wait_ms=86_400_000)]
    summary = compose(TRIAGE.model_copy(update={"delays": delays}), findings).summary

    assert "**reports** can wait 24 hours" in summary
    assert "`deadline_seconds`" in summary
    assert "not used in these computations" not in summary


@pytest.mark.parametrize("brought", [True, False])
def test_what_is_no_question_is_answered_with_what_can_be_asked(findings, brought):
    none = Findings(dataset_id=None, dataset_name="", results=[])
    report = compose(Triage(intent="unclear", understood="?"), findings if brought else none)

    assert "**Where can I save?** It takes" in report.summary
    assert ("cost **$50.00**" in report.summary) is brought
    assert ("LiteLLM" in report.summary) is not brought


def test_overlap_quality_and_failures_are_said(findings):
    summary = compose(TRIAGE, findings).summary

    assert "do not add them up" in summary
    assert "Quality was not measured" in summary
    assert "took longer than 60 s" in summary


def test_the_goal_is_compared_with_each_way_alone(findings):
    anyhow = TRIAGE.model_copy(update={"keep_quality": False})

    assert "Your goal of 20 % is $10.00; Swap could reach it alone." in compose(anyhow, findings).summary


def test_where_quality_must_stay_a_ceiling_does_not_reach_the_goal(findings):
    said = "Your goal of 20 % is $10.00; without touching quality, none of these ways reaches it alone."

    assert said in compose(TRIAGE, findings).summary


def test_a_dataset_named_like_markdown_stays_a_name(findings):
    named = findings.model_copy(update={"dataset_name": "[a](b) *c*"})

    assert compose(TRIAGE, named).summary.startswith("**\\[a\\](b) \\*c\\*:**")


def test_without_data_the_answer_says_what_to_bring_and_no_number():
    report = compose(TRIAGE, Findings(dataset_id=None, dataset_name="", results=[]))

    assert "LiteLLM" in report.summary
    assert unsupported_numbers(report.summary, facts=facts_in([])) == []
    assert report.missing == [
        Missing(
            field="calls",
            why=report.missing[0].why,
            unlocks="all analyses",
            how_to_export=report.missing[0].how_to_export,
        )
    ]


def test_every_number_of_a_composed_summary_stands_in_its_report(findings):
    report = compose(TRIAGE, findings)

    assert unsupported_numbers(report.summary, facts=facts_of(report)) == []


# --- Saved together --------------------------------------------------------------------------------------------------

TOGETHER = JointSaving(
    saving_usd="12",
    low="9",
    high="14",
    spent_usd="50",
    would_cost_usd="38",
    sum_of_parts_usd="15",
    overlap_usd="3",
    shares=[Part(title="Cache", saving_usd="12")],
    constraints=["**search** may take 200 ms, so its calls are left out of batches."],
)


@pytest.fixture
def together(findings):
    def together(joint=TOGETHER, percent=20):
        measured = Measurement(headline="Together $12.00.", joint=joint, savings=[saving("Cache", "13")])
        results = [findings.results[0], ToolResult(call="j", tool="joint_saving", result=measured)]
        asked = TRIAGE.model_copy(update={"goal_percent": percent})
        return compose(asked, findings.model_copy(update={"results": results}))

    return together


@pytest.mark.parametrize(
    ("percent", "said"),
    [
        (18, "Your goal of 18 % is $9.00. What is proven saves 24.0% together (95 % interval: 18.0% to 28.0%), which "),
        (18, "which reaches it."),
        (20, "which does not decide it. Cache could reach it alone."),
        (28, "which does not decide it."),
        (50, "which does not reach it."),
    ],
)
def test_a_goal_is_compared_with_the_interval_of_what_is_saved_together(together, percent, said):
    assert said in together(percent=percent).summary


@pytest.mark.parametrize(("percent", "said"), [(20, "enough only if the ceilings are reached"), (50, "too little")])
def test_a_ceiling_reaches_no_goal(together, percent, said):
    summary = together(TOGETHER.model_copy(update={"up_to": True}), percent).summary

    assert f"All that is bounded would save at most 24.0% together, which is {said}." in summary


def test_where_nothing_is_proven_no_goal_comes_closer(together):
    assert "Nothing that is proven comes closer to it." in together(JointSaving()).summary


def test_what_wishes_forbid_is_said_and_every_number_stands_in_the_report(together):
    report = together()

    assert TOGETHER.constraints[0] in report.summary
    assert unsupported_numbers(report.summary, facts=facts_of(report)) == []


def test_a_field_is_asked_for_once_with_the_most_that_it_unlocks(findings):
    wanted = [
        findings.results[0].result.missing[0].model_copy(update={"at_most_usd": usd}) for usd in ("3", "40", None)
    ]
    results = [
        ToolResult(call=f"c{n}", tool="joint_saving", result=Measurement(headline="", missing=[item]))
        for n, item in enumerate(wanted)
    ]
    report = compose(TRIAGE, findings.model_copy(update={"results": results}))

    assert [item.at_most_usd for item in report.missing] == ["40"]
    assert "unlocks caching, on up to $40.00 of the spend" in report.summary


def test_what_the_data_lacks_in_general_is_no_answer_to_a_narrow_question(findings):
    narrow = TRIAGE.model_copy(update={"intent": "forecast", "goal_percent": None})

    assert compose(narrow, findings).missing == []
