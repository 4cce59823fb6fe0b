"""Bills: each source's own rows, amounts to the last digit, and what cannot be read named by line or path."""

import gzip
import json
import time
from datetime import date
from decimal import Decimal

import pytest

from apps.optimization.bills import NoCharges, convert_bill, sums_of
from apps.optimization.limits import TookTooLong
from apps.optimization.readers import MalformedFile
from tests.optimization.conftest import call

NOVEMBER_1 = 1730419200  # 2024-11-01T00:00:00Z


@pytest.fixture
def billed(tmp_path, write):
    """Convert a bill; answers the conversion and the sums of its rows by charge."""

    def billed(content, name="bill.json"):
        path = write(name, content if isinstance(content, str | bytes | list) else json.dumps(content))
        target = tmp_path / "bill.parquet"
        found = convert_bill(path, target, most=10**8)
        return found, sums_of(target) if found else ()

    return billed


def openai_page(*results, start=NOVEMBER_1, **more):
    bucket = {"object": "bucket", "start_time": start, "end_time": start + 86400, "results": list(results)}
    return {"object": "page", "data": [bucket], "has_more": False, "next_page": None} | more


def openai_cost(value=1.5, item="gpt-4o-2024-08-06, input", currency="usd", **more):
    amount = {"value": value, "currency": currency}
    return {"object": "organization.costs.result", "amount": amount, "line_item": item, "project_id": None} | more


def openai_usage(**more):
    counts = {"input_tokens": 1000, "input_cached_tokens": 400, "output_tokens": 50, "num_model_requests": 3}
    return {"object": "organization.usage.completions.result", "model": "gpt-4o"} | counts | more


def anthropic_page(*results, start="2025-08-01T00:00:00Z"):
    return {"data": [{"starting_at": start, "ending_at": "2025-08-02T00:00:00Z", "results": list(results)}]}


def anthropic_cost(amount="123.45", **more):
    said = {
        "currency": "USD",
        "cost_type": "tokens",
        "description": "Claude Sonnet 4 Usage - Input Tokens",
        "model": "claude-sonnet-4-20250514",
        "service_tier": "standard",
        "token_type": "uncached_input_tokens",
        "context_window": "0-200k",
    }
    return {"amount": amount} | said | more


def focus_row(**more):
    return {
        "BilledCost": "2.50",
        "BillingCurrency": "USD",
        "ChargePeriodStart": "2025-08-01T00:00:00Z",
        "ChargePeriodEnd": "2025-08-02T00:00:00Z",
        "ChargeCategory": "Usage",
        "ChargeDescription": "gpt-4o input",
        "ConsumedQuantity": "1000",
        "ConsumedUnit": "Tokens",
        "ProviderName": "OpenAI",
        "ServiceCategory": "AI and Machine Learning",
        "Tags": json.dumps({"model": "gpt-4o", "custom_llm_provider": "openai"}),
    } | more


def as_pairs(sums):
    return {(one.charge, one.model): one.amount for one in sums}


def as_tokens(sums):
    return {one.charge: one.tokens for one in sums}


# --- OpenAI ----------------------------------------------------------------------------------------------------------


def test_openai_costs_name_model_and_kind_in_the_line_item(billed):
    found, sums = billed(
        openai_page(
            openai_cost(0.06, "gpt-4o-2024-08-06, cached input"),
            openai_cost(1.25, "gpt-4o-2024-08-06, output"),
            openai_cost(0.3, "web search tool calls"),
        )
    )

    assert (found.source, found.rows, found.first_day) == ("openai_costs", 3, date(2024, 11, 1))
    assert as_pairs(sums) == {
        ("cached_read", "gpt-4o-2024-08-06"): Decimal("0.06"),
        ("output", "gpt-4o-2024-08-06"): Decimal("1.25"),
        ("web_search", None): Decimal("0.3"),
    }


def test_an_openai_cost_that_is_not_grouped_is_money_of_an_unknown_model(billed):
    assert as_pairs(billed(openai_page(openai_cost(7, None)))[1]) == {("tokens", None): Decimal(7)}


@pytest.mark.parametrize("form", ["list", "lines", "pretty", "gzip"])
def test_pages_come_as_a_list_as_json_lines_or_packed(billed, form):
    pages = [openai_page(openai_cost(1)), openai_page(openai_cost(2), start=NOVEMBER_1 + 86400)]
    content = {
        "list": json.dumps(pages),
        "lines": "\n".join(map(json.dumps, pages)),
        "pretty": "\n".join(json.dumps(page, indent=2) for page in pages),
        "gzip": gzip.compress(json.dumps(pages).encode()),
    }[form]

    found, sums = billed(content)

    assert (found.rows, found.last_day) == (2, date(2024, 11, 2))
    assert sum(one.amount for one in sums) == 3


def test_a_last_page_that_promises_more_is_said(billed):
    found, _ = billed(openai_page(openai_cost(), has_more=True, next_page="page_2"))

    assert any("not complete" in note for note in found.notes)


def test_openai_usage_is_tokens_without_amounts(billed):
    found, sums = billed(openai_page(openai_usage(input_cache_write_tokens=100)))

    assert found.source == "openai_usage"
    assert as_tokens(sums) == {"input": 500, "cached_read": 400, "cached_write": 100, "output": 50}
    assert {one.amount for one in sums} == {None}


def test_more_cached_than_input_tokens_turn_the_whole_result_away(billed):
    found, sums = billed(openai_page(openai_usage(), openai_usage(input_cached_tokens=5000)))

    assert found.rejected == 1
    assert found.rejects[0].column.endswith("data[0].results[1].input_cached_tokens")
    assert as_tokens(sums)["output"] == 50


# --- Anthropic -------------------------------------------------------------------------------------------------------


def test_anthropic_amounts_are_cents_in_a_string(billed):
    found, sums = billed(anthropic_page(anthropic_cost("123.45")))

    assert found.source == "anthropic_cost"
    assert as_pairs(sums) == {("input", "claude-sonnet-4-20250514"): Decimal("1.2345")}


def test_anthropic_charges_that_are_no_tokens_keep_their_kind(billed):
    searches = anthropic_cost("50", cost_type="web_search", model=None, token_type=None, description="Web Search")
    code = anthropic_cost("7", cost_type="code_execution", model=None, token_type=None, description="Code Execution")

    assert as_pairs(billed(anthropic_page(searches, code))[1]) == {
        ("web_search", None): Decimal("0.5"),
        ("code_execution", None): Decimal("0.07"),
    }


def test_anthropic_usage_counts_both_kinds_of_cache_writes(billed):
    found, sums = billed(
        anthropic_page(
            {
                "uncached_input_tokens": 1500,
                "cache_creation": {"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 1000},
                "cache_read_input_tokens": 200,
                "output_tokens": 500,
                "server_tool_use": {"web_search_requests": 10},
                "model": "claude-sonnet-4-20250514",
            }
        )
    )

    assert found.source == "anthropic_usage"
    assert as_tokens(sums) == {
        "input": 1500,
        "cached_write": 1500,
        "cached_read": 200,
        "output": 500,
        "web_search": None,
    }


# --- FOCUS -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bill.csv", "bill.parquet"])
def test_focus_rows_take_the_model_from_their_tags(tmp_path, write, name):
    target = tmp_path / "kept" / "bill.parquet"
    target.parent.mkdir()

    found = convert_bill(write(name, [focus_row()]), target, most=10**8)

    assert (found.source, found.rows) == ("focus", 1)
    (one,) = sums_of(target)
    assert (one.model, one.charge, one.amount, one.tokens) == ("gpt-4o", "input", Decimal("2.5"), 1000)


def test_focus_categories_and_other_services_are_no_tokens(billed):
    plain = {"Tags": "", "ConsumedUnit": "", "ChargeDescription": "x"}
    _, sums = billed(
        [
            focus_row(),
            focus_row(ChargeCategory="Tax", BilledCost="0.4", **plain),
            focus_row(ChargeCategory="Credit", BilledCost="-1", **plain),
            focus_row(ServiceCategory="Compute", BilledCost="90", **plain),
        ],
        "bill.csv",
    )

    assert {one.charge: one.amount for one in sums} == {
        "input": Decimal("2.5"),
        "tax": Decimal("0.4"),
        "credit": Decimal(-1),
        "other": Decimal(90),
    }


def test_focus_units_of_thousands_and_millions_of_tokens_are_multiplied(billed):
    _, sums = billed([focus_row(ConsumedUnit="1K Tokens", ConsumedQuantity="2.5")], "bill.csv")

    assert sums[0].tokens == 2500


def test_other_currencies_are_kept_apart(billed):
    _, sums = billed([focus_row(), focus_row(BillingCurrency="EUR", BilledCost="9")], "bill.csv")

    assert {one.currency: one.amount for one in sums} == {"USD": Decimal("2.5"), "EUR": Decimal(9)}


def test_rows_of_a_month_are_counted_on_their_first_day_and_said(billed):
    found, _ = billed([focus_row(ChargePeriodEnd="2025-09-01T00:00:00Z")], "bill.csv")

    assert any("1 rows cover more than one day" in note for note in found.notes)


# --- What cannot be read ---------------------------------------------------------------------------------------------


def test_a_focus_row_with_a_bad_amount_is_named_by_line_and_column(billed):
    found, _ = billed([focus_row(), focus_row(BilledCost="two")], "bill.csv")

    assert [(one.line, one.column, one.reason) for one in found.rejects] == [(3, "BilledCost", "'two' is no amount.")]


@pytest.mark.parametrize(
    ("result", "place"),
    [
        (openai_cost("NaN"), "results[0].amount.value"),
        (openai_cost(True), "results[0].amount.value"),
        (openai_cost([1]), "results[0].amount.value"),
        (openai_cost("1e999"), "results[0].amount.value"),
        ("text", "results[0]"),
    ],
)
def test_a_bill_of_which_nothing_can_be_used_fails_with_the_path_of_the_first(billed, result, place):
    page = openai_page(result, {"amount": {"value": "x"}})

    with pytest.raises(NoCharges, match=r"None of 2 rows") as refused:
        billed(page)

    assert refused.value.rejects[0].column.endswith(place)


def test_a_bucket_without_a_time_is_named(billed):
    page = openai_page(openai_cost())
    page["data"][0]["start_time"] = "yesterday"

    with pytest.raises(NoCharges, match=r"data\[0\]\.start_time: 'yesterday' is no time"):
        billed(page)


def test_pages_that_break_off_say_where_the_broken_one_begins(billed):
    whole = json.dumps(openai_page(openai_cost()))

    with pytest.raises(MalformedFile, match="line 2"):
        billed(whole + "\n" + whole[:-5])


def test_calls_are_no_bill(billed):
    asks = call(prompt='{"data": [{"results": [], "start_time": 1, "amount": {}}]}')

    assert billed([call()], "calls.csv")[0] is None
    assert billed([asks], "calls.jsonl")[0] is None


def test_a_bill_that_takes_too_long_leaves_nothing(write, tmp_path):
    path, target = write("bill.json", json.dumps(openai_page(openai_cost()))), tmp_path / "kept" / "bill.parquet"
    target.parent.mkdir()

    with pytest.raises(TookTooLong):
        convert_bill(path, target, most=10**8, seconds=0)

    assert list(target.parent.iterdir()) == []


def test_whoever_watches_a_bill_may_stop_it(write, tmp_path):
    path, target = write("bill.json", json.dumps(openai_page(*[openai_cost()] * 3))), tmp_path / "kept" / "bill.parquet"
    target.parent.mkdir()
    told = []

    def cancel(percent):
        told.append(percent)
        if len(told) == 2:
            raise KeyError("cancelled")

    with pytest.raises(KeyError):
        convert_bill(path, target, most=10**8, progress=cancel)

    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("number", ["1e3000000", "1e999999999", "-1e3000000", "1e-999999999"])
@pytest.mark.parametrize("quoted", [True, False])
def test_a_number_of_millions_of_digits_is_one_bad_row_and_costs_no_time(billed, number, quoted):
    value = json.dumps(number) if quoted else number
    page = json.dumps(openai_page(openai_usage(), openai_usage(input_tokens="HERE"))).replace('"HERE"', value)
    began = time.monotonic()

    found, _ = billed(page)

    assert found.rejected == 1
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("moment", ["1e3000000", "-1e3000000", 10**30])
def test_a_time_far_from_every_calendar_is_a_bad_row(billed, moment):
    page = openai_page(openai_cost())
    page["data"].append(page["data"][0] | {"start_time": moment})

    assert billed(page)[0].rejected == 1


def test_one_bad_row_of_a_bill_leaves_the_others(billed):
    hostile = openai_cost(value="1e3000000"), openai_cost(item="gpt-4o \ud800, input")

    found, sums = billed(json.dumps(openai_page(openai_cost(), *hostile)))

    assert (found.rows, found.rejected) == (2, 1)
    assert all(each.amount == Decimal("1.5") for each in sums)


def test_counts_are_summed_however_large_they_are(billed):
    page = openai_page(*[openai_usage(input_tokens=10**15, input_cached_tokens=0)] * 10_000)

    _, sums = billed(page)

    assert max(each.tokens for each in sums if each.tokens) == 10**19
