"""A call without a known price costs unknown, never zero: in every tool, report, REST, the terminal and the page."""

import json
from uuid import uuid4

import pytest

from apps.agents.artifacts import Findings, ToolResult, Triage
from apps.agents.composing import compose
from apps.agents.tools import (
    batch_eligible_spend,
    dataset_overview,
    exact_cache,
    model_swap_ceiling,
    spend_breakdown,
)
from apps.optimization.services import open_calls
from apps.optimization.simulators import simulate
from tests.optimization.conftest import as_csv, call, run_analyses
from tests.optimization.test_commands import run

UNPRICED = [
    call(
        model="llama-in-the-cellar",
        timestamp=f"2026-10-01T12:{minute}:00Z",
        feature="search",
        prompt="the same",
        temperature="0",
        user="alice",
        interactive="false",
    )
    for minute in (10, 20, 30, 40)
]
BY_DAY = [row | {"timestamp": f"2026-10-0{day}T12:00:00Z"} for day, row in enumerate(UNPRICED, start=1)]
TOOLS = (dataset_overview, spend_breakdown, exact_cache, batch_eligible_spend, model_swap_ceiling)
HINTED = pytest.mark.parametrize("hinted", [True, False])


def rows(hinted):
    return UNPRICED if hinted else [row | {"interactive": ""} for row in UNPRICED]


def dollars_in(document):
    """Every value of the document that is named as dollars."""
    if isinstance(document, list):
        return [amount for each in document for amount in dollars_in(each)]
    if not isinstance(document, dict):
        return []
    own = [value for key, value in document.items() if key.endswith("_usd")]
    return own + [amount for value in document.values() for amount in dollars_in(value)]


def measured(calls):
    return [
        ToolResult(call=f"{place}-{tool.TOOL.name}", tool=tool.TOOL.name, result=tool.measure(calls))
        for place, tool in enumerate(TOOLS, start=1)
    ]


@HINTED
def test_tools_and_report_say_unknown_where_nothing_has_a_price(write, calls_of, hinted):
    with calls_of(write("calls.csv", rows(hinted))) as calls:
        results = measured(calls)

    findings = Findings(dataset_id=uuid4(), dataset_name="cellar", results=results)
    report = compose(Triage(intent="savings", understood="Save.", goal_percent=20), findings)
    assert "$" not in report.model_dump_json()
    assert [finding.saving_usd for finding in report.findings] == [None] * len(report.findings)
    assert "what they cost is not known" in report.summary
    assert all("has a known price, so what they would save is unknown" in finding.how for finding in report.findings)
    assert "No saving was found" not in report.summary
    assert [row[2:] for table in report.tables if table.title.startswith("Spend by") for row in table.rows] == [
        ["unknown", "unknown"]
    ] * 3
    assert report.charts == []
    assert "price" in {item.field for item in report.missing}


@HINTED
def test_every_strategy_says_why_it_is_unknown(write, calls_of, hinted):
    with calls_of(write("calls.csv", rows(hinted))) as calls:
        found = [simulate(calls, name) for name in ("exact_cache", "batch_eligible", "model_swap_ceiling")]

    assert [strategy.saving_usd for strategy in found] == [None] * 3
    assert all("has a known price, so what they would save is unknown" in strategy.why for strategy in found)
    assert {strategy.missing for strategy in found} == {("price",)}


@HINTED
def test_the_terminal_says_unknown_where_nothing_has_a_price(write, hinted):
    path = write("calls.csv", rows(hinted))

    _, shown, _ = run("analyze", path)
    _, document, _ = run("analyze", path, "--json")

    assert "calls.csv: 4 calls, 4,000 tokens in, 400 out, cost unknown" in shown
    assert "$" not in shown
    assert "E2" not in shown
    assert set(dollars_in(json.loads(document))) == {None}
    assert json.loads(document)["cost_usd"] is None


@pytest.mark.django_db
@HINTED
def test_rest_and_page_say_unknown_where_nothing_has_a_price(import_dataset, client_for, alice, hinted):
    dataset = import_dataset(alice, rows(hinted))
    client = client_for(alice)

    breakdown = client.get(f"/api/datasets/{dataset.pk}/breakdown/", {"by": "day"}).json()
    client.post(f"/api/datasets/{dataset.pk}/savings/")
    run_analyses()
    savings = client.get(f"/api/datasets/{dataset.pk}/savings/").json()
    page = client.get(f"/data/{dataset.pk}/").content.decode()

    assert [(row["cost_usd"], row["share"]) for row in breakdown["rows"]] == [(None, None)]
    assert set(dollars_in(breakdown)) == set(dollars_in(savings)) == {None}
    assert "<dt>Spend</dt><dd>unknown</dd>" in page
    assert "$" not in page.split("How the file was read")[0]


@pytest.mark.django_db
def test_a_fact_whose_column_the_source_lacks_is_unknown(import_dataset, client_for, alice):
    silent = import_dataset(alice, [call()])
    telling = import_dataset(alice, [call(status="success", cached_tokens="0")])

    for dataset, value in ((silent, "unknown"), (telling, "0")):
        page = client_for(alice).get(f"/data/{dataset.pk}/").content.decode()
        assert f"<dt>Failed calls</dt><dd>{value}</dd>" in page
        assert f"<dt>of those cached</dt><dd>{value}</dd>" in page


# --- Part of it is known ---------------------------------------------------------------------------------------------


def test_what_is_partly_unknown_says_which_part_is_missing(write, calls_of):
    priced = [row | {"model": "gpt-4o"} for row in UNPRICED]

    with calls_of(write("calls.csv", [*priced, *UNPRICED[:3]])) as calls:
        repeats, batch, swap = (
            simulate(calls, name) for name in ("exact_cache", "batch_eligible", "model_swap_ceiling")
        )
        told = exact_cache.measure(calls).savings[0].how

    assert all(strategy.saving_usd > 0 for strategy in (repeats, batch, swap))
    assert repeats.why.endswith(" Of 5 repeats, 2 have no known price and are not in the sum.")
    assert batch.why == "Of 7 calls that can wait, 3 have no known price and are not in the sum."
    assert swap.why.endswith(" Of 7 calls, 3 have no known price and are not in the sum.")
    assert told.endswith(repeats.why)


def test_a_day_without_a_price_is_no_point_of_a_chart(write, calls_of):
    priced = [BY_DAY[day] | {"model": "gpt-4o"} for day in (0, 2)]

    with calls_of(write("calls.csv", [*priced, BY_DAY[1]])) as calls:
        [days] = [chart for chart in spend_breakdown.measure(calls).charts if chart.kind == "line"]

    assert [point.label for point in days.points] == ["2026-10-01", "2026-10-03"]
    assert all(point.value > 0 for point in days.points)


@pytest.mark.django_db
def test_a_day_without_a_price_is_no_point_of_the_page_either(import_dataset, client_for, as_principal, alice):
    priced = [BY_DAY[day] | {"model": "gpt-4o"} for day in (0, 2)]
    dataset = import_dataset(alice, as_csv([*priced, BY_DAY[1]]))

    page = client_for(alice).get(f"/data/{dataset.pk}/").content.decode()

    assert "2026-10-01: $0.00350; 2026-10-03: $0.00350</desc>" in page
    with open_calls(principal=as_principal(alice), dataset_id=dataset.pk) as calls:
        assert calls.row("SELECT count(*) FROM calls") == (3,)


def test_a_known_zero_stays_zero(write, calls_of):
    with calls_of(write("calls.csv", [call(prompt=prompt, interactive="true", user="u") for prompt in "ab"])) as c:
        found = [simulate(c, name).saving_usd for name in ("exact_cache", "batch_eligible")]
        headline = batch_eligible_spend.measure(c).headline

    assert found == [0, 0]
    assert headline == "No call that is billed at the standard price is known to wait for nobody."
