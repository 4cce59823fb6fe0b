"""Whether an adopted way to save came true, on the calls that came after."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest

from apps.optimization import outcomes
from apps.optimization.datasets import open_dataset
from apps.optimization.models import Outcome, Recommendation
from apps.optimization.statistics.realised import Realised
from tests.optimization.conftest import call

COST = Decimal("0.0035")  # of one `call()`; half of it in a batch
DAY = datetime(2026, 10, 15, tzinfo=UTC)


def fortnights(batched, *, growth=1):
    """Half of all calls can wait. From the second fortnight on, `batched` of these go through the batch API."""
    rows = []
    for day in range(28):
        later = day >= 14
        for n in range(20 * (growth if later else 1)):
            waits = n % 2 == 0
            sent = later and waits and (n // 2) % 10 < 10 * batched
            rows.append(
                call(
                    timestamp=f"2026-10-{1 + day:02}T{n % 24:02}:00:00Z",
                    interactive=str(not waits).lower(),
                    session=f"s{day}-{n}",
                    batch=str(sent).lower(),
                )
            )
    return rows


@pytest.fixture
def measured(import_dataset, alice, acme):
    def measured(rows, **more):
        dataset = import_dataset(alice, rows)
        made = Recommendation.objects.create(
            organization=acme,
            dataset=dataset,
            saving_usd=10,
            sufficiency=90,
            confidence=0.9,
            state="adopted",
            **{"strategy": "batch_eligible", "low_usd": 9, "adopted_at": DAY} | more,
        )
        with open_dataset(dataset) as calls:
            outcomes.measure(dataset, calls)
        return Outcome.objects.filter(recommendation=made).first()

    return measured


def test_what_was_done_in_full_came_true_in_full(measured):
    found = measured(fortnights(1.0))

    # 280 calls since, 140 of them at half their price.
    assert found.realised_usd == pytest.approx(140 * COST / 2, rel=Decimal("1e-6"))
    assert found.predicted_usd == pytest.approx(found.realised_usd, rel=Decimal("1e-6"))
    assert (found.held, found.calls, found.from_at) == (True, 280, DAY)
    assert found.low_usd < found.realised_usd < found.high_usd


def test_what_was_never_done_brought_nothing(measured):
    found = measured(fortnights(0.0))

    assert found.realised_usd == pytest.approx(0, abs=Decimal("1e-9"))
    assert found.predicted_usd == pytest.approx(140 * COST / 2, rel=Decimal("1e-6"))
    assert not found.held


def test_of_a_prediction_that_may_be_nothing_nothing_is_no_success(measured):
    assert not measured(fortnights(0.0), low_usd=0).held
    assert measured(fortnights(1.0), low_usd=0).held


def test_days_without_calls_and_weekends_that_can_wait_do_not_stretch_an_outcome(measured):
    """On working days little can wait, on Sundays all; there is no call on Saturdays."""
    rows = months(lambda day: {6: 1.0}.get(day % 7, 0.3), days=56)
    rows = [row for row in rows if datetime.fromisoformat(row["timestamp"]).weekday() != 5]
    mixed = months(lambda day: 0.4, days=56)

    found, plain = measured(rows), measured(mixed)

    width, other = (float(each.high_usd - each.low_usd) for each in (found, plain))
    assert width < 1.5 * other


def test_growth_is_no_failure(measured):
    once, tenfold = measured(fortnights(0.6)), measured(fortnights(0.6, growth=10))

    assert tenfold.realised_usd == pytest.approx(10 * once.realised_usd, rel=Decimal("0.05"))
    assert once.held == tenfold.held is False


def test_a_changed_mix_of_features_is_no_failure(measured):
    """After the way to save was adopted in full, the feature that can wait grows fourfold and the other does not."""
    rows = []
    for day in range(28):
        later = day >= 14
        for n in range(40 if later else 10):
            about = {"timestamp": f"2026-10-{1 + day:02}T{n % 24:02}:00:00Z", "batch": str(later).lower()}
            rows.append(call(feature="report", interactive="false", session=f"r{day}-{n}", **about))
        for n in range(10):
            about = {"timestamp": f"2026-10-{1 + day:02}T{n % 24:02}:00:00Z", "batch": "false"}
            rows.append(call(feature="chat", interactive="true", session=f"c{day}-{n}", **about))

    found = measured(rows)

    assert found.realised_usd == pytest.approx(14 * 40 * COST / 2, rel=Decimal("1e-6"))
    assert found.held


@pytest.mark.parametrize("adopted", [21, 11])
def test_what_teaches_is_of_before_and_is_no_spend_that_could_not_be_saved(measured, adopted):
    """The first half of the calls before tells how deep to write, however many came since; nothing is counted on them,
    and so they are not compared."""
    book = "".join(chr(97 + n * 7 % 26) for n in range(8192))
    rows = [
        call(
            model="claude-sonnet-4-5",
            timestamp=f"2026-10-{day:02}T10:{n:02}:00Z",
            prompt=book,
            input_tokens=2048,
            output_tokens=0,
            cached_tokens=2048 if day >= adopted and n else 0,
            session=f"s{day}-{n}",
        )
        for day in range(1, 31)
        for n in range(20)
    ]

    found = measured(rows, strategy="prefix_cache", adopted_at=datetime(2026, 10, adopted, tzinfo=UTC))

    # Of all days since, with twenty calls each, all but the first of a day were read at a tenth of the input's price.
    assert found.realised_usd == pytest.approx((31 - adopted) * 19 * 2048 * Decimal("2.7") / 10**6, rel=Decimal("0.05"))


def test_what_its_owner_allowed_is_measured_under_the_rule_that_was_allowed(measured):
    rows = [
        call(timestamp=f"2026-10-{1 + day:02}T12:00:{n:02}Z", prompt="Where are you?", user=f"u{day}-{n}")
        for day in range(28)
        for n in range(3)
    ]

    assert measured(rows, strategy="exact_cache") is None  # nobody asks twice
    allowed = measured(rows, strategy="exact_cache", detail={"options": {"answers_shared": True}})
    assert allowed.predicted_usd == pytest.approx(14 * 2 * COST, rel=Decimal("1e-6"))
    assert (allowed.realised_usd, allowed.held) == (pytest.approx(0, abs=Decimal("1e-9")), False)


@pytest.mark.parametrize("adopted", [datetime(2026, 11, 20, tzinfo=UTC), datetime(2026, 9, 1, tzinfo=UTC)])
def test_without_calls_before_and_since_nothing_is_measured(measured, adopted):
    assert measured(fortnights(1.0), adopted_at=adopted) is None


def test_measuring_again_says_the_same_of_the_same_calls(measured, import_dataset, alice):
    found = measured(fortnights(1.0))
    with open_dataset(found.recommendation.dataset) as calls:
        outcomes.measure(found.recommendation.dataset, calls)

    assert Outcome.objects.count() == 1


def test_the_gradient_is_that_of_the_value():
    sums, step = np.array([30.0, 100.0, 5.0, 50.0, 0.0, 9.0]), 1e-5
    realised = Realised(paid=np.array([120.0, 80.0, 9.0]), left=np.array([10.0, 0.0, 2.0]))
    for column in range(4):
        moved = np.array([sums, sums])
        moved[0, column] -= step
        moved[1, column] += step
        low, high = realised(moved)
        assert realised.gradient(sums)[column] == pytest.approx((high - low) / (2 * step), rel=1e-6)
    assert not realised.gradient(sums)[4:].any()  # of the third feature nothing could be saved before


def months(share_of, *, days=60, calls=40):
    """A way to save that was adopted halfway and never used; on each day, a share of the calls could have waited."""
    return [
        call(
            timestamp=f"{DAY + timedelta(days=day - days // 2):%Y-%m-%d}T{n % 24:02}:00:00Z",
            interactive=str(n >= calls * share_of(day)).lower(),
            session=f"s{day}-{n}",
        )
        for day in range(days)
        for n in range(calls)
    ]


def test_an_outcome_is_as_uncertain_as_days_resemble_each_other(measured):
    """The same shares in another order: for weeks much can wait and then little, or from day to day."""
    shares = [0.2, 0.8]
    lasting = measured(months(lambda day: shares[day // 10 % 2]))
    changing = measured(months(lambda day: shares[day % 2]))

    def width(outcome):
        return outcome.high_usd - outcome.low_usd

    assert width(lasting) > 2 * width(changing)


def test_an_outcome_of_few_clusters_that_save_has_no_interval(measured):
    rows = fortnights(0.0)
    for row in rows:
        if row["session"] > "s0-6":
            row["interactive"] = "true"

    found = measured(rows)

    assert found.realised_usd is not None
    assert (found.low_usd, found.high_usd) == (None, None)
