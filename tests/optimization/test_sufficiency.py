"""How far data carries an analysis, and what would carry it further."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from apps.optimization.simulators import simulate
from apps.optimization.sufficiency import ENOUGH_CLUSTERS, OVERALL, sufficiency
from tests.optimization.conftest import call

DAY = datetime(2026, 9, 1, tzinfo=UTC)
COST = Decimal("0.0035")  # of one `call()`


def month(sessions=120, days=28, **more):
    """A call a session, evenly over the days, with all that repeats need."""
    return [
        call(
            timestamp=f"{(DAY + timedelta(days=n * days / (sessions - 1))).isoformat()}",
            session=f"s{n}",
            prompt=f"p{n}",
            **more,
        )
        for n in range(sessions)
    ]


@pytest.fixture
def assessed(write, calls_of):
    def assessed(rows, **more):
        with calls_of(write("calls.csv", rows)) as calls:
            return sufficiency(calls, **more)

    return assessed


def test_a_month_of_whole_calls_that_explain_the_bill_is_optimal(assessed):
    found = assessed(month(), capture_rate=1.0)["exact_cache"]

    assert (found.score, found.state, found.missing) == (100, "optimal", ())


def test_without_a_bill_to_compare_with_nothing_is_optimal(assessed):
    found = assessed(month())["exact_cache"]

    assert (found.score, found.state, found.parts.reconciliation) == (94, "sufficient", None)


def test_a_recorded_cost_stands_in_for_the_bill(assessed):
    assert assessed(month(cost=str(COST)))["exact_cache"].parts.reconciliation == pytest.approx(1)
    assert assessed(month(cost=str(2 * COST)))["exact_cache"].parts.reconciliation == pytest.approx(0.5)


def test_more_captured_than_billed_is_a_fault(assessed):
    rate = lambda captured: assessed(month(), capture_rate=captured)["spend_breakdown"].score  # noqa: E731

    assert rate(1.0) == rate(1.01) > rate(1.2) > rate(1.6)


def test_each_part_is_worth_its_weight(assessed):
    whole = assessed(month(), capture_rate=1.0)["spend_breakdown"]
    half_as_long = assessed(month(days=14), capture_rate=1.0)["spend_breakdown"]
    fewer_sessions = assessed(month(sessions=int(ENOUGH_CLUSTERS / 2)), capture_rate=1.0)["spend_breakdown"]
    half_the_bill = assessed(month(), capture_rate=0.92)["spend_breakdown"]

    assert whole.score - half_as_long.score == 10
    assert whole.score - fewer_sessions.score == 8  # 7.5
    assert whole.score - half_the_bill.score == 1  # 1.2


def test_coverage_counts_spend_and_not_rows(assessed):
    rows = [*month(), call(input_tokens=1_000_000, prompt="", session="s0", timestamp=DAY.isoformat())]

    found = assessed(rows, capture_rate=1.0)["exact_cache"]

    cheap, dear = 120 * COST, Decimal("2.501")
    assert found.parts.coverage == pytest.approx(float(cheap / (cheap + dear)), abs=1e-5)
    assert (found.score, found.state) == (0, "insufficient")  # below the gate


def test_what_comes_stood_out_changed_and_took_how_long_have_scores_too(assessed):
    whole, short = assessed(month(), capture_rate=1.0), assessed(month(days=12), capture_rate=1.0)

    assert [(short[name].score, whole[name].score) for name in ("forecast", "anomalies")] == [(0, 100)] * 2
    assert short["spend_breakdown"].score > 0
    assert [lack.field for lack in whole["latency"].lacks] == ["ended_at"]
    assert (whole["latency"].score, whole["latency"].lacks[0].at_most_usd) == (0, 120 * COST)
    assert whole["changes"].missing == ("feature",)
    told = assessed(month(duration_ms=900, feature="chat"), capture_rate=1.0)
    assert (told["latency"].score, told["changes"].score) == (100, 100)


@pytest.mark.parametrize(
    ("told", "carries"),
    [
        ({"status": "success"}, True),
        ({"trace_id": "t", "session": ""}, True),
        ({"user": "u", "session": ""}, True),
        ({}, True),  # a session
        ({"session": ""}, False),  # nobody's
        ({"prompt": ""}, False),
        ({"prompt": "", "trace_id": "t"}, False),
    ],
)
def test_what_was_paid_in_vain_is_assessed_by_what_its_simulator_reads(write, calls_of, told, carries):
    with calls_of(write("calls.csv", [row | told for row in month()])) as calls:
        found, simulated = sufficiency(calls)["retry_waste"], simulate(calls, "retry_waste")

    assert (found.score > 0, found.missing) == (carries, () if carries else ("attempts",))
    assert (simulated.saving_usd is not None) == carries


def test_a_missing_field_says_what_it_is_worth(assessed):
    rows = [row | ({} if n % 2 else {"prompt": ""}) for n, row in enumerate(month())]

    found = assessed(rows, capture_rate=1.0)["exact_cache"]

    [lack] = found.lacks
    assert (found.missing, lack.field, lack.points) == (("prompt_hash",), "prompt_hash", 25)
    assert lack.at_most_usd == 60 * COST


def test_what_nobody_says_of_any_call_is_worth_the_whole_spend(assessed):
    found, lacks = (
        assessed(rows, capture_rate=1.0)["prefix_cache"].lacks
        for rows in (month(), [row | {"prompt": ""} for row in month()])
    )

    assert [lack.field for lack in found] == ["cached_tokens"]  # prompts too short for a block hide none
    assert {lack.field: lack.at_most_usd for lack in lacks} == {"blocks": 120 * COST, "cached_tokens": 120 * COST}


def test_half_of_the_sessions_missing_from_a_running_number_is_a_sample(assessed):
    rows = [row | {"request_id": f"req-{n:06}"} for n, row in enumerate(month(sessions=400))]

    whole, half = assessed(rows), assessed(rows[::2])

    assert (whole["exact_cache"].sampled, whole["exact_cache"].state) == (None, "sufficient")
    assert half["exact_cache"].state == "insufficient"
    assert half["exact_cache"].sampled == "Of 399 consecutive ids, 199 are missing."
    # What does not need every call is not capped.
    assert half["model_swap_ceiling"].state == "sufficient"


def test_a_bill_that_the_calls_do_not_explain_makes_them_a_sample(assessed):
    found = assessed(month(), capture_rate=0.5)

    assert found["exact_cache"].sampled == "The calls explain 50% of the bill."
    assert found["exact_cache"].score == 39
    assert found["model_swap_ceiling"].score > 39


def test_the_overall_score_is_the_mean(assessed):
    found = assessed(month())
    scores = [each.score for name, each in found.items() if name != OVERALL]

    assert found[OVERALL].score == round(sum(scores) / len(scores))
    assert set(found[OVERALL].missing) >= {"delay"}


def test_nothing_known_scores_nothing(assessed):
    found = assessed([{"output_tokens": 5}])

    assert {each.state for each in found.values()} == {"insufficient"}
