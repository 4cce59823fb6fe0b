"""What comes, what stood out, and what changed, on calls whose truth is known."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from apps.llm.catalogue import Catalogue
from apps.optimization.analysis import analyse
from apps.optimization.anomalies import anomalies
from apps.optimization.changes import Span, changes, compare, used
from apps.optimization.forecast import forecast
from apps.optimization.injection import recall
from apps.optimization.overview import spend
from apps.optimization.results import Analysis, in_dollars
from apps.optimization.sample import FIRST_DAY, write_sample_files
from tests.optimization.conftest import call

COST = Decimal("0.0035")  # of one `call()`


@pytest.fixture
def sample(tmp_path, calls_of):
    path = tmp_path / "sample.csv"
    write_sample_files(path=path, calls=6000, seed=5)
    with calls_of(path) as calls:
        yield calls


def daily(days, **more):
    return [call(timestamp=f"2026-10-{day:02d}T{hour:02d}:30:00Z", **more) for day in days for hour in range(24)]


def span(first, last):
    return Span(start=datetime(2026, 10, first, tzinfo=UTC), end=datetime(2026, 10, last, tzinfo=UTC))


def test_a_steady_month_is_forecast_to_the_cent_and_the_baseline_does_it(write, calls_of):
    with calls_of(write("calls.csv", daily(range(1, 29)))) as calls:
        found = forecast(calls, days=7)

    assert (found.usd, found.low, found.high) == (7 * 24 * COST,) * 3
    assert found.model == "seasonal naive"
    assert [str(day.day) for day in found.by_day][:4] == ["2026-10-29", "2026-10-30", "2026-10-31", "2026-11-01"]


def test_a_part_of_a_day_at_the_end_is_no_day(write, calls_of):
    rows = [*daily(range(1, 29)), call(timestamp="2026-10-29T00:10:00Z")]

    with calls_of(write("calls.csv", rows)) as calls:
        assert forecast(calls, days=7).usd == 7 * 24 * COST


def test_two_weeks_are_forecast_without_an_interval_and_less_is_not_forecast(write, calls_of):
    with calls_of(write("two.csv", daily(range(1, 15)))) as calls:
        two = forecast(calls)
    with calls_of(write("less.csv", daily(range(1, 14)))) as calls:
        less, unusual = forecast(calls), anomalies(calls)

    assert (two.usd, two.low) == (28 * 24 * COST, None)
    assert (less.usd, less.why, unusual) == (None, "13 whole days; a forecast needs 14.", None)


def test_calls_without_a_price_have_neither(write, calls_of):
    with calls_of(write("calls.csv", daily(range(1, 29), model="llama-in-the-cellar"))) as calls:
        assert (forecast(calls).usd, anomalies(calls)) == (None, None)


def test_a_known_spike_is_found_with_its_dollars_and_its_cause(write, calls_of):
    rows = daily(range(1, 29), feature="chat", user="ann")
    rows += [call(timestamp="2026-10-20T09:40:00Z", feature="agent", user="bob")] * 3000

    with calls_of(write("calls.csv", rows)) as calls:
        (found,) = anomalies(calls)

    assert (found.from_, found.to) == (datetime(2026, 10, 20, tzinfo=UTC), datetime(2026, 10, 21, tzinfo=UTC))
    assert found.excess_usd == 3000 * COST
    assert (found.user, found.user_excess_usd) == ("bob", 3000 * COST)
    assert float(sum(found.detail.factors.values())) == pytest.approx(float(found.excess_usd))
    assert "agent" in found.cause
    assert '"from":"2026-10-20T00:00:00Z"' in found.model_dump_json()


def test_a_calm_month_has_no_anomaly_and_injected_spikes_are_found(sample):
    assert anomalies(sample, minimum_usd=Decimal("0.5")) == ()

    small, large = recall(sample, sizes=(0.3, 0.6), spikes=8, minimum_usd=Decimal("0.5"))

    assert large.found == large.named == 1
    assert small.found <= large.found
    assert max(small.false_alarms, large.false_alarms) <= 0.5
    assert anomalies(sample, minimum_usd=Decimal("0.5")) == ()


def test_a_longer_answer_of_one_feature_is_named_as_tokens_per_call(write, calls_of):
    rows = [*daily(range(1, 8), feature="chat"), *daily(range(8, 15), feature="chat", output_tokens=200)]

    with calls_of(write("calls.csv", rows)) as calls:
        found = changes(calls, span(1, 8), span(8, 15))

    assert found.change_usd == found.factors["tokens"] == 7 * 24 * Decimal("0.001")
    assert found.factors["volume"] == found.factors["mix"] == found.factors["price"] == 0
    assert found.cause == "Output tokens per call of chat, gpt-4o: +0.17 of +0.17 dollars."


def test_two_halves_of_a_sample_add_up_to_its_bill_and_to_their_difference(sample):
    half = FIRST_DAY + timedelta(days=14)
    found = changes(sample, Span(start=FIRST_DAY, end=half), Span(start=half, end=half + timedelta(days=14)))

    assert float(found.before_usd + found.after_usd) == pytest.approx(float(in_dollars(spend(sample))))
    assert float(sum(found.factors.values())) == pytest.approx(float(found.change_usd), abs=1e-9)


def test_two_datasets_are_compared_as_two_periods_are(write, calls_of):
    with calls_of(write("one.csv", [call()] * 10), Catalogue()) as calls:
        one = used(calls)
    with calls_of(write("two.csv", [call()] * 15), Catalogue()) as calls:
        two = used(calls)

    assert compare(one, two).factors["volume"] == 5 * COST
    assert compare(one, one).cause is None


def test_the_whole_analysis_carries_both_and_reads_back_what_it_wrote(write, calls_of):
    rows = [*daily(range(1, 29)), *[call(timestamp="2026-10-20T09:40:00Z", feature="agent")] * 3000]

    with calls_of(write("calls.csv", rows)) as calls:
        found = analyse(calls)
    document = json.loads(found.model_dump_json())

    assert [each["from"] for each in document["anomalies"]] == ["2026-10-20T00:00:00Z"]
    assert {"days", "usd", "low", "high"} <= set(document["forecast"])
    assert float(found.forecast.usd) == pytest.approx(28 * 24 * float(COST))
    assert "left out: 2026-10-20." in found.forecast.why
    assert Analysis.model_validate(document) == found
