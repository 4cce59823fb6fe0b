"""What a model may say about a report: its numbers, and no other."""

from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from apps.agents.artifacts import Chart, Finding, Missing, Point, ReportBody, Table
from apps.agents.evidence import facts_in, facts_of, unsupported_numbers

COUNTS = st.integers(0, 10**12)
CENTS = st.integers(0, 10**11).map(lambda cents: Decimal(cents).scaleb(-2))
AMOUNTS = st.decimals(0, 10**9, places=6, allow_nan=False, allow_infinity=False)


def body(*, amounts=(), cells=(), points=(), dataset_name="march.csv"):
    findings = [
        Finding(
            title="Cache",
            saving_usd=format(amount, "f"),
            evidence="E2",
            up_to=False,
            how="Do it.",
            latency="Batched calls answer within 24 hours.",
            source="exact_cache-41239679",
        )
        for amount in amounts
    ]
    return ReportBody(
        title=f"Where you can save: {dataset_name}",
        summary="",
        dataset_id=UUID("01934123-9679-7000-8000-000000004123"),
        dataset_name=dataset_name,
        findings=findings,
        tables=[Table(title="Spend", columns=["Model", "It"], rows=[["gpt-4o", cell] for cell in cells])],
        charts=[Chart(title="By model", kind="bar", unit="USD", points=list(points))],
        missing=[Missing(field="prompt", why="Why.", unlocks="caching", how_to_export="Export it.")],
    )


@pytest.mark.parametrize(
    ("text", "foreign"),
    [
        ("You could save $1,000", ["1,000"]),
        ("You could save $96.79", []),
        ("You could save 96.79 dollars", []),
        ("about 97 dollars", []),
        ("about $96.8", []),
        ("that is 42.1 %", []),
        ("that is 42.1 percentage points", []),
        ("that is 43 %", ["43"]),
        ("that is 97 %", ["97"]),
        ("three steps, 2 of them easy", []),
        ("for 1,234,567 tokens, so 1.2 million or 1.2M", []),
    ],
)
def test_a_number_of_the_report_passes_and_no_other(text, foreign):
    facts = facts_in(["cost $96.7947 for 1,234,567 tokens", "share 0.4213"])

    assert unsupported_numbers(text, facts=facts) == foreign


@pytest.mark.parametrize(
    "text",
    [
        "$9.00 a month",
        "$9 a month",
        "**$**9",
        "&dollar;9",
        "9 USD",
        "9 dollars",
        "9 cents",
        "€9",
        "€97",
        "between $96.79 and 10",
        "$5-10",
        "10 %",
        "10 percent",
        "10x",
        "5 million tokens",
        "5k tokens",
        "5e6 tokens",
        "$5 bn",
        "$9,679",
        "9,679 %",
        "$.50",
        "$4,123",
        "4,123 calls",
        "2,026 calls",
        "$1,2345",
        "24 %",
        "$24",
    ],
)
def test_no_number_is_too_small_or_too_lucky_to_be_checked(text):
    facts = facts_of(body(amounts=[Decimal("96.79")]), "Your calls from 2026-01-01 cost $96.79.")

    assert unsupported_numbers(text, facts=facts) != []


@pytest.mark.parametrize(
    "text",
    [
        "gpt-4o costs more than claude-sonnet-4-5.",
        "GPT-4.1 and gpt-4.1-mini",
        "from 2026-01-01 00:00 to 2026-01-31 10:22 UTC",
        "from January 1 to 31 January 2026",
        "the export 5000.csv file",
        "evidence E2",
    ],
)
def test_names_dates_and_times_of_the_report_may_be_spelled(text):
    report = body(cells=["openai/gpt-4.1-mini", "claude-sonnet-4-5"], dataset_name="export 5000.csv")

    assert unsupported_numbers(text, facts=facts_of(report, "2026-01-01 00:00 to 2026-01-31 10:22, E2")) == []


def test_a_number_in_a_name_is_no_number_of_the_report():
    report = body(cells=["gpt-4-32k"], dataset_name="export 5000.csv")

    assert unsupported_numbers("32,000 tokens and 5,000 calls", facts=facts_of(report)) == ["32,000", "5,000"]


def test_the_percentage_of_a_goal_is_only_a_percentage():
    facts = facts_of(body(), "50 %")

    assert unsupported_numbers("50 % less", facts=facts) == []
    assert unsupported_numbers("$50 less", facts=facts) == ["50"]


@given(AMOUNTS, st.integers(0, 6), st.sampled_from(["{:.{}f}", "{:,.{}f}", "${:,.{}f}", "{:.{}f} USD"]))
def test_an_amount_of_the_report_may_be_said_plainly_grouped_or_rounded(amount, places, form):
    text = f"You save {form.format(amount, places)}."

    assert unsupported_numbers(text, facts=facts_of(body(amounts=[amount]))) == []


@given(COUNTS, st.sampled_from(["{}", "{:,}"]))
def test_a_count_of_the_report_may_be_said(count, form):
    assert unsupported_numbers(f"{form.format(count)} calls", facts=facts_of(body(cells=[f"{count:,}"]))) == []


@given(st.integers(10**6, 10**12), st.integers(0, 3))
def test_a_count_may_be_said_in_millions(count, places):
    text = f"{Decimal(count) / 10**6:.{places}f} million"

    assert unsupported_numbers(text, facts=facts_of(body(cells=[f"{count:,}"]))) == []


@given(st.floats(0, 1), st.integers(0, 1))
def test_a_share_of_the_report_may_be_said_as_a_percentage(share, places):
    cell = f"{100 * share:.1f} %"

    assert unsupported_numbers(f"{Decimal(cell[:-2]):.{places}f} %", facts=facts_of(body(cells=[cell]))) == []


@given(st.floats(0.01, 10**9))
def test_a_bar_of_a_chart_may_be_said(value):
    report = body(points=[Point(label="gpt-4o", value=value)])

    assert unsupported_numbers(f"${value:,.2f}", facts=facts_of(report)) == []


@given(CENTS, st.lists(CENTS, max_size=5), st.lists(COUNTS, max_size=5), st.sampled_from(["${:,}", "{} dollars"]))
def test_another_amount_of_dollars_is_found(said, amounts, counts, form):
    assume(all(abs(said - amount) > 1 for amount in amounts))
    report = body(amounts=amounts, cells=[f"{count:,}" for count in counts])

    assert len(unsupported_numbers(form.format(said), facts=facts_of(report))) == 1


@pytest.mark.parametrize("name", ["You will save $5,000,000 v2", "99 % off with evil-gpt"])
def test_a_name_in_the_data_proves_no_amount(name):
    facts = facts_of(body(points=[Point(label=name, value=3.5)]))

    assert unsupported_numbers(f"Good news: {name}!", facts=facts)
    assert unsupported_numbers("You will save $5,000,000, 99 %", facts=facts) == ["5,000,000", "99"]
