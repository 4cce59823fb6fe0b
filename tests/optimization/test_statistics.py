"""Intervals, tests, decompositions and forecasts, where the truth is known."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.optimization.management.commands.evaluate import PUBLIC
from apps.optimization.statistics import backtest as backtest_module
from apps.optimization.statistics.anomalies import unusual
from apps.optimization.statistics.backtest import backtest, coverage, lasting, workload
from apps.optimization.statistics.bootstrap import (
    Difference,
    Interval,
    Ratio,
    cluster_interval,
    conformal,
    widened,
)
from apps.optimization.statistics.decomposition import FACTORS, Cell, Use, contributors, decompose, totals
from apps.optimization.statistics.dependence import resembling, widening
from apps.optimization.statistics.forecast import BASELINE, LEVEL, TRENDING, forecasted
from apps.optimization.statistics.stationarity import stationarity

MOONCAKE = PUBLIC / "mooncake_synthetic_trace.jsonl"
SHARE = Ratio(0, 1)


def random(seed=3):
    return np.random.default_rng(seed)


# --- Intervals -------------------------------------------------------------------------------------------------------


def test_intervals_hold_the_truth_as_often_as_they_promise():
    for found in coverage(clusters=(30, 120), trials=150):
        assert abs(found.held - found.level) < 3 * found.error, found


@pytest.mark.parametrize("method", ["studentized", "percentile", "bca"])
def test_each_method_agrees_with_the_normal_interval_where_that_is_right(method):
    sums = np.stack((random().normal(5, 1, 400), np.full(400, 10.0)), axis=1)

    found = cluster_interval(sums, Ratio(0, 1), method=method)

    half = 1.96 * sums[:, 0].std(ddof=1) / np.sqrt(400) / 10
    assert found.value == pytest.approx(sums[:, 0].mean() / 10)
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=half * 0.15)


def test_a_difference_of_totals_has_an_interval_too():
    sums = random().lognormal(0, 1, (500, 2)) + np.array([1, 0])

    found = cluster_interval(sums, Difference(0, 1))

    assert found.value == pytest.approx(sums[:, 0].sum() - sums[:, 1].sum())
    assert found.low < 500 < found.high


def test_below_thirty_clusters_there_is_no_interval_and_the_reason_is_said():
    found = cluster_interval(np.ones((29, 2)), Ratio(0, 1))

    assert (found.value, found.low, found.high, found.clusters) == (1.0, None, None, 29)
    assert "29 clusters are too few" in found.why


def test_an_interval_of_nothing_is_none():
    assert cluster_interval(np.zeros((50, 2)), Ratio(0, 1)).why == "No interval: the denominator is zero."


def test_the_same_seed_gives_the_same_interval():
    sums, _ = workload(random(), clusters=50)

    assert cluster_interval(sums, Ratio(0, 1), seed=4) == cluster_interval(sums, Ratio(0, 1), seed=4)


def test_many_clusters_are_folded_without_a_change_of_width():
    sums, _ = workload(random(), clusters=20_000)

    share, spent = sums[:, 0].sum() / sums[:, 1].sum(), sums[:, 1].sum()
    found = cluster_interval(sums, Ratio(0, 1))
    error = np.sqrt(((sums[:, 0] - share * sums[:, 1]) ** 2).sum()) / spent

    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_drift_widens_an_interval_where_the_backtest_has_windows_enough_and_is_named_where_not():
    narrow = Interval(value=10.0, low=9.5, high=10.5, level=0.8, clusters=50)

    assert conformal(np.array([1.0, -3.0, 2.0, 0.5]), level=0.8) == 3.0
    assert widened(narrow, np.array([1.0, -3.0, 2.0, 0.5])).low == 7.0
    told = widened(narrow, np.array([3.0]))
    assert (told.low, told.why) == (9.5, "Sampling error only: 1 backtest windows, drift at 80% needs 4.")


# --- Stationarity ----------------------------------------------------------------------------------------------------


def days_of(memory, days=60, seed=3):
    sums, _ = lasting(random(seed), days=days, memory=memory)
    return sums.reshape(-1, 24, 2).sum(axis=1)


def test_an_interval_is_stretched_where_days_resemble_those_before_them_and_says_so():
    days = days_of(0.98)
    plain = cluster_interval(days, SHARE)

    found = resembling(plain, days, days, SHARE)

    factor = widening(days, days, SHARE)
    assert factor > 1.5
    assert found.high - found.low == pytest.approx(factor * (plain.high - plain.low))
    assert found.value == plain.value
    assert f"the interval is {factor:.1f} times as wide" in found.why


def test_days_that_say_nothing_of_the_next_ones_rarely_stretch_it():
    factors = [widening(days, days, SHARE) for days in (days_of(0.0, seed=seed) for seed in range(60))]

    assert np.mean(np.array(factors) == 1) >= 0.85
    assert max(factors) < 2


def test_many_sessions_of_a_day_that_err_together_count_as_what_they_are():
    """A day's share is that of all its sessions: a hundred of them tell no more than the day does."""
    draw = random()
    shares = np.repeat(draw.beta(3, 7, size=60), 100)
    sessions = np.stack([shares, np.ones(6000)], axis=1)
    days = sessions.reshape(60, 100, 2).sum(axis=1)

    # The error of a mean of 6,000 by that of a mean of 60.
    assert widening(days, sessions, SHARE) == pytest.approx(np.sqrt(100), rel=0.3)


def test_days_that_are_a_part_of_the_log_stretch_it_as_the_whole_does():
    days = days_of(0.98, days=240)

    whole, parts = widening(days, days, SHARE), [widening(half, days, SHARE, part=0.5) for half in np.split(days, 2)]

    assert np.mean(parts) == pytest.approx(whole, rel=0.25)


def test_weeks_that_are_all_alike_are_no_resemblance():
    week = np.array([[3.0, 10], [3, 10], [3, 10], [3, 10], [3, 10], [9, 10], [9, 10]])
    days = np.tile(week, (8, 1)) + np.array([1.0, 0]) * random().normal(0, 0.5, size=(56, 1))

    assert widening(days, days, SHARE) < 1.3


@pytest.mark.parametrize(
    ("days", "clusters"), [(days_of(0.98)[:13], days_of(0.98)), (np.zeros((30, 2)), np.zeros((40, 2)))]
)
def test_few_days_or_none_with_spend_stretch_nothing(days, clusters):
    assert widening(days, clusters, SHARE) == 1


def test_a_log_that_stays_the_same_is_rarely_called_drifting():
    draw = random()
    wrong = sum(
        stationarity(np.stack((draw.binomial(100, 0.3, 30), np.full(30, 100)), axis=1)).verdict == "drifting"
        for _ in range(60)
    )

    assert wrong <= 8  # 5 % of 60 is 3; 8 or more happen once in 80 such tests


def test_a_short_log_is_not_judged():
    found = stationarity(np.ones((8, 2)))

    assert (found.verdict, found.p) == ("unknown", None)


@pytest.mark.skipif(not MOONCAKE.exists(), reason=f"the public trace is not in {PUBLIC}")
def test_a_ramping_workload_is_caught_where_its_interval_would_mislead():
    blocks = prefix_hits(MOONCAKE, seconds=5, kept=300)
    warm, half = 300 // 5, len(blocks) // 2
    early, late = blocks[warm:half], blocks[half:]

    found, told = stationarity(blocks[warm:], length=6), cluster_interval(early, Ratio(0, 1))
    later = late[:, 0].sum() / late[:, 1].sum()

    assert (told.value, later) == pytest.approx((0.442, 0.782), abs=0.01)
    assert not told.contains(later)
    assert (found.verdict, found.p < 0.01) == ("drifting", True)


def prefix_hits(path, seconds, kept):
    """Tokens read from a prefix cache that forgets after `kept` seconds, and all input tokens, per span of time."""
    used, sums = {}, {}
    for line in path.read_text().splitlines():
        call = json.loads(line)
        hits, now = 0, call["timestamp"] / 1000
        for block in call["hash_ids"]:
            if now - used.get(block, -np.inf) > kept:
                break
            hits += 1
        used.update(dict.fromkeys(call["hash_ids"], now))
        row = sums.setdefault(int(now // seconds), [0, 0])
        row[0] += min(512 * hits, call["input_length"])
        row[1] += call["input_length"]
    return np.array([sums.get(block, [0, 0]) for block in range(max(sums) + 1)], dtype=float)


# --- Backtest --------------------------------------------------------------------------------------------------------


def test_a_backtest_of_a_steady_share_is_unbiased_and_one_that_jumps_is_seen():
    spent = random().lognormal(3, 0.2, 80)
    steady = np.stack((spent * random(4).normal(0.3, 0.02, 80), spent), axis=1)
    jumps = steady.copy()
    jumps[60:, 0] *= 0.5

    assert abs(backtest(steady).bias) < 0.01
    assert backtest(jumps).bias > 0.03
    assert backtest(jumps).contained[1] < 0.5
    assert len(backtest(jumps).residuals) == 50


# --- Decomposition ---------------------------------------------------------------------------------------------------

amounts = st.one_of(st.just(0.0), st.floats(0.001, 1e6))
periods = st.dictionaries(
    st.sampled_from(["a", "b", "c"]), st.tuples(st.floats(1, 1e6), amounts, amounts, amounts, amounts), max_size=3
)


def period(groups):
    return {
        Cell(group=(name,), kind=kind): Use(calls=calls, tokens=tokens, cost=cost if tokens else 0.0)
        for name, (calls, ti, ci, to, co) in groups.items()
        for kind, tokens, cost in (("input", ti, ci), ("output", to, co))
    }


@given(periods, periods)
def test_effects_add_up_to_the_difference_and_turn_their_sign_with_time(before, after):
    before, after = period(before), period(after)
    there, back = decompose(before, after), decompose(after, before)
    costs = [sum(use.cost for use in each.values()) for each in (before, after)]
    room = 1e-7 * (1 + sum(costs))

    assert sum(totals(there).values()) == pytest.approx(costs[1] - costs[0], abs=room)
    assert sum(effect.amount for effect in contributors(there)) == pytest.approx(costs[1] - costs[0], abs=room)
    assert totals(back) == pytest.approx({factor: -amount for factor, amount in totals(there).items()}, abs=room)


@pytest.mark.parametrize(
    ("factor", "change"),
    [
        ("volume", {"a": (20, 200, 40, 20, 60), "b": (20, 200, 40, 20, 60)}),
        ("mix", {"a": (15, 150, 30, 15, 45), "b": (5, 50, 10, 5, 15)}),
        ("tokens", {"a": (10, 300, 60, 10, 30), "b": (10, 100, 20, 10, 30)}),
        ("price", {"a": (10, 100, 50, 10, 30), "b": (10, 100, 20, 10, 30)}),
        ("mix", {"a": (10, 100, 20, 10, 30), "c": (10, 100, 30, 10, 30)}),
    ],
)
def test_a_change_of_one_factor_is_put_down_to_it_alone(factor, change):
    before = period({"a": (10, 100, 20, 10, 30), "b": (10, 100, 20, 10, 30)})
    found = totals(decompose(before, period(change)))

    difference = sum(use.cost for use in period(change).values()) - sum(use.cost for use in before.values())
    assert found == pytest.approx({each: difference if each == factor else 0.0 for each in FACTORS}, abs=1e-9)


# --- Forecast and anomalies ------------------------------------------------------------------------------------------

WEEK = np.array([10, 11, 12, 11, 10, 3, 2], dtype=float)


def test_a_noisy_week_is_forecast_better_than_by_its_last_one():
    spend = np.tile(WEEK, 8) * random().lognormal(0, 0.2, 56)

    found = forecasted(spend, horizon=28)

    assert (found.model, found.better_error < found.baseline_error) == (LEVEL, True)
    assert found.low < 4 * WEEK.sum() < found.high
    assert found.total == pytest.approx(4 * WEEK.sum(), rel=0.15)


def test_the_baseline_is_used_where_nothing_beats_it():
    found = forecasted(np.tile(WEEK, 3), horizon=7)

    assert found.model == BASELINE
    assert found.values == pytest.approx(WEEK)


@settings(max_examples=20)
@given(day=st.integers(0, 59), times=st.integers(1000, 10**6))
def test_one_wild_day_in_sixty_moves_neither_the_forecast_nor_its_interval(day, times):
    calm = np.tile(1e6 * WEEK, 9)[:60] * random().lognormal(0, 0.05, 60)
    spend = calm.copy()
    spend[day] *= times

    quiet, found = forecasted(calm, horizon=28), forecasted(spend, horizon=28)

    assert (quiet.left_out, found.left_out) == ((), (day,))
    assert (found.total, found.high, found.low) == pytest.approx((quiet.total, quiet.high, quiet.low), rel=0.1)
    assert found.low <= found.total <= found.high


def test_growth_of_two_per_cent_a_day_is_followed_and_fades():
    spend = np.resize(1e6 * WEEK, 88) * 1.02 ** np.arange(88) * random().lognormal(0, 0.05, 88)

    found = forecasted(spend[:60], horizon=28)

    assert (found.model, found.left_out) == (TRENDING, ())
    assert found.better_error < found.baseline_error / 2
    assert found.total == pytest.approx(spend[60:].sum(), rel=0.12)
    assert found.total < spend[60:].sum() < found.high


def test_growth_that_ended_eight_weeks_ago_is_not_carried_on():
    spend = 1e6 * 1.02 ** np.minimum(np.arange(140), 80) * random().lognormal(0, 0.05, 140)

    assert forecasted(spend, horizon=28).total == pytest.approx(28e6 * 1.02**80, rel=0.05)


def test_days_without_spend_are_days():
    nothing, resting = forecasted(np.zeros(30), horizon=7), np.tile(np.append(np.full(5, 1e6), [0, 0]), 6)
    now_and_then = 1e6 * (random().random(60) < 0.5)
    weekends, scattered = forecasted(resting, horizon=14), forecasted(now_and_then, horizon=7)

    assert (nothing.total, nothing.low, nothing.high) == (0, 0, 0)
    assert (weekends.total, weekends.left_out) == (pytest.approx(10e6), ())
    assert scattered.left_out == ()
    assert scattered.low <= now_and_then[-7:].sum() <= scattered.high


@settings(max_examples=60)
@given(
    spend=st.lists(st.one_of(st.just(0.0), st.floats(1, 1e12)), min_size=14, max_size=35),
    horizon=st.integers(1, 28),
)
def test_any_series_has_a_forecast_within_its_interval(spend, horizon):
    found = forecasted(np.array(spend), horizon=horizon)

    assert np.isfinite(found.values).all()
    assert (found.values >= 0).all()
    assert found.low is None or found.low <= found.total <= found.high
    assert len(found.values) == horizon


def test_a_constant_is_forecast_as_it_is():
    found = forecasted(np.full(60, 5e6), horizon=28)

    assert (found.total, found.low, found.high, found.model) == (*[140e6] * 3, BASELINE)


def test_money_that_came_where_none_was_forecast_leaves_no_interval():
    spend = np.concatenate([[5.0, 6, 5], np.zeros(700), 5e6 + 1e5 * random().normal(size=30)])

    made = forecasted(spend, horizon=28)

    assert made.low is None or made.high > 1.01 * made.low


def test_a_backtest_of_a_log_with_years_of_nothing_looks_at_the_days_with_spend_only(monkeypatch):
    rows = np.zeros((4000, 2))
    rows[0] = rows[-60:] = [1.0, 2.0]
    computed = []
    whole = backtest_module.cluster_intervals
    monkeypatch.setattr(backtest_module, "cluster_intervals", lambda *a, **k: computed.append(1) or whole(*a, **k))

    found = backtest(rows, first=7, horizon=7)

    assert len(computed) == len(found.windows) <= 10


def test_thirteen_days_are_no_forecast():
    assert forecasted(np.ones(13), horizon=7) is None


def test_a_spike_is_flagged_and_an_ordinary_week_is_not():
    spend = np.tile(WEEK, 6) * random().lognormal(0, 0.05, 42)
    seasons = np.arange(42) % 7

    assert not unusual(spend, seasons, minimum=1, share=0.3).any()
    spend[20] += 3  # a Sunday, which stays far below any working day
    assert list(np.flatnonzero(unusual(spend, seasons, minimum=1, share=0.3))) == [20]
