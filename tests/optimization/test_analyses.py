"""Numbers that are computed from the calls, and None where they cannot be."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import get_args
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.llm.catalogue import Catalogue
from apps.llm.pricing import Usage, price
from apps.optimization import simulators
from apps.optimization.analysis import analyse
from apps.optimization.breakdown import UnknownDimension, dimension, spend_breakdown, spend_breakdowns
from apps.optimization.calls import reading
from apps.optimization.management.commands.evaluate import PUBLIC
from apps.optimization.options import DEFAULTS, Options
from apps.optimization.overview import overview
from apps.optimization.repeats import served_by
from apps.optimization.results import Dimension
from apps.optimization.sample import write_sample_files
from apps.optimization.simulators import UnknownStrategy, simulate
from tests.optimization.conftest import call

AZURE = PUBLIC / "AzureLLMInferenceTrace_conv_2023.csv"
MOONCAKE = PUBLIC / "mooncake_synthetic_trace.jsonl"
COST = Decimal("0.0035")  # of one `call()`: 1000 * 2.5 + 100 * 10 dollars per million


def saving(calls, name):
    return simulate(calls, name).saving_usd


# --- Overview and breakdown ------------------------------------------------------------------------------------------


def test_the_overview_counts_what_is_known_and_says_what_is_not(write, calls_of):
    rows = [call(), call(), call(model="llama-in-the-cellar"), call(status="failed")]

    with calls_of(write("calls.csv", rows)) as calls:
        found = overview(calls)

    assert (found.calls, found.billed_calls, found.failed_calls, found.unpriced_calls) == (4, 3, 1, 1)
    assert found.cost_usd == 2 * COST
    assert found.tokens.input == 3000
    assert found.unpriced_share == pytest.approx(1 / 3, abs=1e-6)
    assert found.unpriced_models == ("llama-in-the-cellar",)
    assert found.recorded_cost_usd is None


def test_the_recorded_bill_stands_beside_the_computed_one(write, calls_of):
    with calls_of(write("calls.csv", [call(cost="0.0040"), call(cost="")])) as calls:
        found = overview(calls)

    assert (found.recorded_on, found.recorded_cost_usd, found.computed_on_recorded_usd) == (1, Decimal("0.004"), COST)


def test_coverage_is_by_spend_and_not_by_rows(write, calls_of):
    rows = [call(feature="", input_tokens=90_000, output_tokens=0), *[call(feature="chat")] * 50]

    with calls_of(write("calls.csv", rows)) as calls:
        assert overview(calls).coverage["feature"] == pytest.approx(0.175 / 0.4)


def test_coverage_counts_calls_where_nothing_has_a_price(write, calls_of):
    with calls_of(write("calls.csv", [call(model="x", feature="a"), call(model="x", feature="")])) as calls:
        assert overview(calls).coverage["feature"] == 0.5


def test_spend_is_broken_down_and_adds_up(write, calls_of):
    rows = [call(feature="a"), call(feature="b"), call(feature="b"), call(feature=""), call(feature="b", model="x")]

    with calls_of(write("calls.csv", rows)) as calls:
        found = spend_breakdown(calls, "feature")

    assert [(row.key, row.calls, row.cost_usd, row.unpriced_calls) for row in found.rows] == [
        ("b", 3, 2 * COST, 1),
        ("a", 1, COST, 0),
        (None, 1, COST, 0),
    ]
    assert sum(row.cost_usd for row in found.rows) == found.total_usd == 4 * COST
    assert found.covered_share == 0.75


def test_days_come_in_their_order_and_hours_are_hours_of_the_day(write, calls_of):
    rows = [call(timestamp=f"2026-10-0{day}T0{hour}:30:00Z") for day, hour in ((2, 3), (1, 3), (1, 1))]

    with calls_of(write("calls.csv", rows)) as calls:
        days, hours = spend_breakdown(calls, "day"), spend_breakdown(calls, "hour")

    assert [(row.key, row.calls) for row in days.rows] == [("2026-10-01", 2), ("2026-10-02", 1)]
    assert [(row.key, row.calls) for row in hours.rows] == [("01:00", 1), ("03:00", 2)]


ZONES = ("UTC", "Europe/Berlin", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Chatham", "America/St_Johns")
ZONES += ("Africa/Casablanca", "America/Vancouver", "America/Winnipeg")  # which change their rules in these years


@pytest.mark.parametrize("written", ["today", "before the column of quarters existed"])
def test_days_and_hours_are_those_of_the_clocks_of_any_zone(write, converted, tmp_path, written):
    # Around the nights in which clocks change, every 7 minutes and some seconds.
    nights = ((2025, 2, 22), (2025, 3, 29), (2025, 4, 5), (2025, 10, 25), (2025, 11, 1), (2025, 12, 31), (2026, 10, 31))
    began = [datetime(*night, tzinfo=UTC) for night in nights]
    moments = [day + timedelta(seconds=433.5 * step) for day in began for step in range(250)]
    converted(write("calls.csv", [call(timestamp=moment.isoformat()) for moment in moments]))
    file = tmp_path / "converted" / "calls.parquet"
    if written != "today":
        duckdb.execute(f"COPY (SELECT * EXCLUDE quarter FROM '{file}') TO '{tmp_path}/calls.parquet'")
        file = tmp_path / "calls.parquet"

    for zone in ZONES:
        with reading(files=[file], catalogue=Catalogue(), memory_mib=128, time_zone=zone) as calls:
            found = spend_breakdowns(calls, ("day", "hour"), limit=100)
        there = [moment.astimezone(ZoneInfo(zone)) for moment in moments]
        counted = {by: {row.key: row.calls for row in found[by].rows} for by in found}
        assert counted["day"] == Counter(f"{moment:%Y-%m-%d}" for moment in there), zone
        assert counted["hour"] == Counter(f"{moment:%H}:00" for moment in there), zone


def test_groups_beyond_the_limit_are_counted(write, calls_of):
    with calls_of(write("calls.csv", [call(user=f"u{n}") for n in range(5)])) as calls:
        found = spend_breakdown(calls, "user", limit=2)

    assert (len(found.rows), found.other_rows, found.total_usd) == (2, 3, 5 * COST)


def test_one_pass_over_all_dimensions_finds_what_one_for_each_does(write, calls_of):
    rows = [call(timestamp=f"2026-10-0{1 + n % 3}T0{n % 4}:30:00Z", user=f"u{n % 5}") for n in range(20)]
    rows += [call(timestamp="", model="", feature="f"), call(model="x")]

    with calls_of(write("calls.csv", rows)) as calls:
        together = spend_breakdowns(calls, get_args(Dimension), limit=3)
        alone = {by: spend_breakdown(calls, by, limit=3) for by in get_args(Dimension)}

    assert together == alone
    assert {by: len(found.rows) + found.other_rows for by, found in together.items()} == {
        "model": 3, "feature": 2, "user": 6, "day": 4, "hour": 6
    }  # fmt: skip


def test_spend_cannot_be_broken_down_by_just_anything():
    with pytest.raises(UnknownDimension, match="model, feature, user, day, hour"):
        dimension('1; DROP VIEW calls; --"')


# --- Exact cache -----------------------------------------------------------------------------------------------------


def at(second, prompt="q", **more):
    start, end = (f"2026-10-01T{12 + s // 3600}:{s // 60 % 60:02d}:{s % 60:02d}Z" for s in (second, second + 1))
    return call(timestamp=start, ended_at=end, prompt=prompt, temperature="0", user="u") | more


@pytest.mark.parametrize(
    ("rows", "repeats"),
    [
        pytest.param([at(0), at(5), at(9)], 2, id="the first answer serves all later ones"),
        pytest.param([at(0), at(5, prompt="other")], 0, id="another prompt"),
        pytest.param([at(0), at(5, model="gpt-4o-mini")], 0, id="another model"),
        pytest.param([at(0), at(5, temperature="")], 0, id="other parameters"),
        pytest.param([at(0), at(5, user="v")], 0, id="somebody else's"),
        pytest.param([at(0, user="", session="s"), at(5, user="", session="s")], 1, id="the same session"),
        pytest.param([at(0), at(5, user="", session="")], 0, id="nobody's"),
        pytest.param([at(0), at(3601), at(3602)], 1, id="until an hour after the answer"),
        pytest.param([at(0), at(1800), at(3602), at(3604)], 2, id="a hit does not renew"),
        pytest.param([at(0), at(0)], 0, id="at the same time, nothing is answered yet"),
        pytest.param([at(0) | {"ended_at": "2026-10-01T12:00:30Z"}, at(5)], 0, id="the first has not ended"),
        pytest.param([at(0) | {"ended_at": "2026-10-01T12:00:30Z"}, at(5), at(9)], 1, id="the second ended first"),
        pytest.param([at(0, status="failed"), at(5)], 0, id="a failure is no answer"),
        pytest.param([at(0, finish_reason="length"), at(5)], 0, id="an answer that was cut is none either"),
        pytest.param([at(0, status="failed"), at(5), at(9)], 1, id="the answer after a failure is one"),
        pytest.param([at(9), at(5), at(0)], 2, id="the order of the file does not matter"),
    ],
)
def test_a_repeat_is_what_an_earlier_answer_could_have_served(write, calls_of, rows, repeats):
    empty = {"status": "", "finish_reason": "", "session": ""}
    with calls_of(write("calls.csv", [empty | row for row in rows])) as calls:
        found = simulate(calls, "exact_cache")

    assert found.detail["repeats"] == repeats
    assert found.saving_usd == repeats * COST or rows[-1]["model"] != "gpt-4o"


def test_repeats_that_would_lose_something_are_told_apart_and_not_counted(write, calls_of):
    warm, tools = {"temperature": "0.7"}, {"tools_offered": "true", "prompt": "t"}
    rows = [at(0), at(5), at(10) | warm, at(15) | warm, at(20) | warm, at(25) | tools, at(30) | tools]

    with calls_of(write("calls.csv", [{"tools_offered": "false"} | row for row in rows])) as calls:
        found = simulate(calls, "exact_cache")

    assert (found.saving_usd, found.detail["repeats"]) == (COST, 1)
    assert [(each["because"], each["repeats"], Decimal(each["saving_usd"])) for each in found.detail["apart"]] == [
        ("temperature above 0", 2, 2 * COST),
        ("tools offered", 1, COST),
    ]


def test_without_prompts_the_saving_is_unknown_and_not_zero(write, calls_of):
    with calls_of(write("calls.csv", [call(), call()])) as calls:
        found = simulate(calls, "exact_cache")

    assert (found.saving_usd, found.missing) == (None, ("prompt",))
    assert "no prompt" in found.why


def test_where_calls_name_nobody_only_a_shared_cache_can_be_computed_and_it_is_not_counted(write, calls_of):
    with calls_of(write("calls.csv", [at(0, user=""), at(5, user="")])) as calls:
        found, shared = (simulate(calls, "exact_cache", each) for each in (DEFAULTS, Options(answers_shared=True)))

    assert (found.saving_usd, found.missing, shared.saving_usd) == (None, ("user",), COST)
    assert [Decimal(each["saving_usd"]) for each in found.detail["choices"]] == [0, 0, 0, COST, COST, COST]


def test_a_repeat_takes_as_long_as_the_look_ups_that_the_log_shows(write, calls_of):
    hit = at(40) | {"ended_at": "2026-10-01T12:00:40.25Z", "cached_answer": "true", "prompt": "kept"}

    with calls_of(
        write("calls.csv", [{"cached_answer": "false"} | row for row in (at(0), at(5), at(9), hit)])
    ) as calls:
        found = simulate(calls, "exact_cache")

    assert (found.latency.before.p50, found.latency.after.p50) == (1.0, 0.25)
    assert found.detail["look_up_measured"]


@settings(max_examples=200)
@given(gaps=st.lists(st.integers(1, 100), min_size=1, max_size=30), lives=st.tuples(*[st.integers(0, 300)] * 2))
def test_answers_that_are_kept_longer_serve_no_fewer_calls_and_never_the_first(gaps, lives):
    """Where answers come before the next call; one that is asked for again at a busy time can serve fewer."""
    at = np.cumsum(gaps).astype(float)
    short, long = (
        served_by(np.zeros(len(at), np.uint64), at, at, at + life, np.ones(len(at), bool)) for life in sorted(lives)
    )

    assert (short >= 0).sum() <= (long >= 0).sum() < len(at)
    served = np.flatnonzero(long >= 0)
    assert np.all(at[long[served]] < at[served])
    assert np.all(at[served] - at[long[served]] <= max(lives))


# --- Batch -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hints", "eligible"),
    [
        ({"interactive": "false"}, True),
        ({"interactive": "true"}, False),
        ({"deadline_seconds": "86400"}, True),
        ({"deadline_seconds": "3600"}, False),
        ({"interactive": "true", "deadline_seconds": "999999"}, False),
        ({"interactive": "false", "deadline_seconds": "60"}, False),
        ({"interactive": ""}, False),
    ],
    ids=str,
)
def test_a_call_is_batched_only_if_it_says_that_it_can_wait(write, calls_of, hints, eligible):
    anchor = call(interactive="true", deadline_seconds="")
    empty = {"interactive": "", "deadline_seconds": ""}

    with calls_of(write("calls.csv", [anchor, call() | empty | hints])) as calls:
        found = simulate(calls, "batch_eligible")

    assert found.saving_usd == (COST / 2 if eligible else 0)
    assert (found.up_to, found.evidence) == (False, "E2")


def test_without_any_hint_batching_is_a_ceiling_and_is_called_one(write, calls_of):
    with calls_of(write("calls.csv", [call()] * 4)) as calls:
        found = simulate(calls, "batch_eligible")

    assert (found.saving_usd, found.up_to, found.evidence) == (2 * COST, True, "E0")
    assert found.missing == ("interactive", "deadline_seconds")
    assert found.assumptions[0] == "Every call that does not stream is taken to wait a day."


def test_calls_that_went_through_a_batch_api_already_save_nothing_more(write, calls_of):
    with calls_of(write("calls.csv", [call(batch="true", interactive="false")])) as calls:
        assert saving(calls, "batch_eligible") == 0


def test_a_failure_that_was_billed_is_not_batched(write, calls_of):
    rows = [call(interactive="false", status=status, cost="0.0035") for status in ("failed", "success")]

    with calls_of(write("calls.csv", rows)) as calls:
        found = simulate(calls, "batch_eligible")

    assert (found.saving_usd, found.detail["eligible_calls"]) == (COST / 2, 1)


def test_where_no_batch_price_is_known_the_saving_is_unknown(write, calls_of):
    with calls_of(write("calls.csv", [call(provider="azure", interactive="false")])) as calls:
        found = simulate(calls, "batch_eligible")

    assert (found.saving_usd, found.missing) == (None, ("batch_price",))


def test_cached_tokens_keep_the_price_that_the_batch_list_gives_them(write, calls_of):
    rates = Catalogue().rates(model="claude-sonnet-4-5", at=datetime(2026, 10, 1, tzinfo=UTC))
    usage = Usage(input_tokens=300_000, cached_read=100_000, output_tokens=1000)
    row = call(model="claude-sonnet-4-5", input_tokens=300_000, output_tokens=1000, interactive="false")

    with calls_of(write("calls.csv", [row | {"cached_tokens": 100_000}])) as calls:
        assert saving(calls, "batch_eligible") == price(usage, rates) - price(usage, rates, tier="batch")


# --- Swapping models -------------------------------------------------------------------------------------------------


def test_the_swap_is_a_ceiling_with_the_same_tokens_at_another_list_price(write, calls_of):
    with calls_of(write("calls.csv", [call()] * 3)) as calls:
        found = simulate(calls, "model_swap_ceiling")

    [swap] = found.detail["models"]
    mini = next(offer for offer in swap["candidates"] if offer["model"] == "gpt-4o-mini")
    assert (found.evidence, found.up_to) == ("E0", True)
    assert Decimal(mini["cost_usd"]) == 3 * (1000 * Decimal("0.15") + 100 * Decimal("0.6")) / 10**6
    assert found.saving_usd == max(Decimal(offer["saving_usd"]) for offer in swap["candidates"])
    assert all(offer["same_provider"] == (offer["provider"] == "openai") for offer in swap["candidates"])


def test_sums_of_tokens_price_like_the_calls_themselves_across_every_tier(write, calls_of):
    sizes = (1000, 127_999, 128_001, 199_999, 200_000, 200_001, 271_999, 272_001, 900_000)
    rows = [call(model="gpt-4.1", input_tokens=size, output_tokens=size // 100) for size in sizes]
    at = datetime(2026, 10, 1, tzinfo=UTC)

    with calls_of(write("calls.csv", rows)) as calls:
        [swap] = simulate(calls, "model_swap_ceiling").detail["models"]

    for offer in swap["candidates"]:
        identity = Catalogue().identify(model=offer["model"], provider=offer["provider"])
        rates = Catalogue().rates(model=offer["model"], provider=offer["provider"], at=at)
        fitting = [size for size in sizes if size <= (identity.context_window or 10**9)]
        expected = sum(price(Usage(input_tokens=size, output_tokens=size // 100), rates) for size in fitting)
        assert (offer["calls"], Decimal(offer["cost_usd"])) == (len(fitting), expected), offer["model"]


def test_without_a_priced_model_there_is_no_ceiling(write, calls_of):
    with calls_of(write("calls.csv", [call(model="")])) as calls:
        found = simulate(calls, "model_swap_ceiling")

    assert (found.saving_usd, found.missing) == (None, ("model",))


def test_an_unknown_strategy_is_named_with_the_known_ones(write, calls_of):
    with calls_of(write("calls.csv", [call()])) as calls, pytest.raises(UnknownStrategy, match="batch_eligible"):
        simulate(calls, "pray")


# --- The whole -------------------------------------------------------------------------------------------------------


def test_dollars_leave_as_decimal_strings_and_what_is_not_computed_as_null(write, calls_of):
    with calls_of(write("calls.csv", [call()])) as calls:
        document = json.loads(analyse(calls).model_dump_json())

    assert document["cost_usd"] == "0.0035"
    assert (document["joint"], document["anomalies"], document["forecast"]["usd"]) == (None, None, None)
    assert {s["name"] for s in document["strategies"]} == set(simulators.known())
    assert all(s["low"] is None and s["high"] is None for s in document["strategies"])


@pytest.mark.parametrize(("suffix", "seed"), [("csv", 7), ("jsonl", 8)])
def test_the_analysis_of_a_sample_recovers_its_truth(tmp_path, calls_of, suffix, seed):
    path = tmp_path / f"sample.{suffix}"
    truth = write_sample_files(path=path, calls=1500, seed=seed).document()

    with calls_of(path) as calls:
        found = analyse(calls).model_dump(mode="json")

    strategies = {s["name"]: s for s in found["strategies"]}
    assert found["calls"] == truth["calls"] == 1500
    assert found["tokens"] == truth["tokens"]
    assert found["cost_usd"] == truth["cost_usd"]
    assert found["unpriced_share"] == 0
    assert found["overview"]["failed_calls"] == truth["failed_calls"] > 0
    assert found["overview"]["recorded_cost_usd"].rstrip("0") == truth["cost_usd"]
    for by in ("feature", "model"):
        rows = {row["key"]: row["cost_usd"] for row in found["breakdown"][by]["rows"]}
        assert rows == truth[f"by_{by}_usd"]
    cache, caches = strategies["exact_cache"], truth["exact_cache"]
    assert (cache["saving_usd"], cache["detail"]["repeats"]) == tuple(
        caches["own_hour"][k] for k in ("saving_usd", "repeats")
    )
    assert cache["detail"]["choices"][-1] == {"shared": True, "kept_seconds": None} | caches["shared_for_good"]
    assert caches["shared_for_good"]["repeats"] > 0
    assert strategies["batch_eligible"]["saving_usd"] == truth["batch_eligible"]["saving_usd"]
    assert strategies["batch_eligible"]["detail"]["eligible_calls"] == truth["batch_eligible"]["calls"] > 0


def test_a_seed_makes_the_same_sample_every_time(tmp_path):
    first, again, other = (tmp_path / name for name in ("a.csv", "b.csv", "c.csv"))

    for path, seed in ((first, 1), (again, 1), (other, 2)):
        write_sample_files(path=path, calls=200, seed=seed)

    assert first.read_bytes() == again.read_bytes() != other.read_bytes()


@pytest.mark.skipif(not AZURE.exists(), reason=f"the public Azure trace is not in {PUBLIC}")
def test_the_azure_trace_costs_what_it_costs_at_gpt_4os_list_price(calls_of):
    with calls_of(AZURE, price_as="gpt-4o") as calls:
        found = analyse(calls)

    assert (found.calls, found.tokens.input, found.tokens.output) == (19_366, 22_361_870, 4_088_665)
    assert found.cost_usd == Decimal("96.791325")


@pytest.mark.skipif(not MOONCAKE.exists(), reason=f"the public Mooncake trace is not in {PUBLIC}")
def test_the_mooncake_trace_is_read_with_its_relative_times(calls_of):
    with calls_of(MOONCAKE, price_as="gpt-5") as calls:
        found = overview(calls)

    assert (found.calls, found.tokens.input, found.tokens.output) == (3_993, 61_194_628, 595_432)
    assert round(found.cost_usd, 2) == Decimal("82.45")


def test_a_slow_query_draws_nothing_on_standard_output(write, calls_of):
    with calls_of(write("calls.csv", [call()])) as calls:
        shown = calls.row("SELECT current_setting('enable_progress_bar'), current_setting('enable_progress_bar_print')")

    assert shown == (True, False)
