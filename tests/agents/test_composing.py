"""A report holds what the tools computed, says where it is from, and nothing else."""

from uuid import uuid4

import pytest

from apps.agents.artifacts import Findings, Measurement, Missing, Saving, ToolResult, Triage
from apps.agents.composing import compose
from apps.agents.evidence import unsupported_numbers

TRIAGE = Triage(intent="savings", understood="Save.", goal_percent=20, keep_quality=True)


def saving(title, amount, up_to=False):
    return Saving(
        title=title,
        saving_usd=amount,
        evidence="E0" if up_to else "E2",
        up_to=up_to,
        how="Do it.",
        latency="Same.",
    )


@pytest.fixture
def findings():
    overview = Measurement(headline="Your 100 calls cost **$50.00**.", spend_usd="50")
    savings = Measurement(headline="Repeats.", savings=[saving("Cache", "2.5"), saving("Swap", "30", up_to=True)])
    unknown = Measurement(headline="", savings=[saving("Batch", None)])
    return Findings(
        dataset_id=uuid4(),
        dataset_name="March",
        results=[
            ToolResult(call="1-dataset_overview", tool="dataset_overview", result=overview),
            ToolResult(call="2-exact_duplicates", tool="exact_duplicates", result=savings),
            ToolResult(call="3-batch", tool="batch_eligible_spend", result=unknown),
        ],
        failures=["model_swap_ceiling took longer than 60 s."],
    )


def test_findings_are_ranked_by_dollars_and_name_the_call_they_came_from(findings):
    report = compose(TRIAGE, findings)

    assert [(f.title, f.source) for f in report.findings] == [
        ("Swap", "2-exact_duplicates"),
        ("Cache", "2-exact_duplicates"),
        ("Batch", "3-batch"),
    ]


def test_a_ceiling_is_called_a_ceiling_and_an_unknown_is_called_unknown(findings):
    summary = compose(TRIAGE, findings).summary

    assert "**Swap**: up to **$30.00**" in summary
    assert "**Cache**: **$2.50**" in summary
    assert "**Batch**: not known." in summary


def test_overlap_quality_and_failures_are_said(findings):
    summary = compose(TRIAGE, findings).summary

    assert "do not add them up" in summary
    assert "Quality was not measured" in summary
    assert "took longer than 60 s" in summary


def test_the_goal_is_compared_with_each_way_alone(findings):
    assert "Your goal of 20 % is $10.00; alone, Swap could reach it." in compose(TRIAGE, findings).summary


def test_without_data_the_answer_says_what_to_bring_and_no_number():
    report = compose(TRIAGE, Findings(dataset_id=None, dataset_name="", results=[]))

    assert "LiteLLM" in report.summary
    assert unsupported_numbers(report.summary, facts="") == []
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
    facts = findings.model_dump_json() + " goal 20 % of 50 is 10.00"

    assert unsupported_numbers(report.summary, facts=facts) == []


@pytest.mark.parametrize(
    ("text", "foreign"),
    [
        ("You could save $1,000", ["1,000"]),
        ("You could save $96.79", []),
        ("about 97 dollars", []),
        ("that is 42.1 %", []),
        ("that is 43 %", ["43"]),
        ("three steps, 2 of them easy", []),
        ("gpt-4o costs more", []),
    ],
)
def test_a_number_that_was_not_computed_is_found(text, foreign):
    assert unsupported_numbers(text, facts='{"cost": "96.7947", "share": 0.4213}') == foreign
