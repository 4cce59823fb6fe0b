"""What an adopted way to save did, measured on the calls since: what it would still save, against what it would have.

A way to save leaves less to be saved where it is used. If a share o of spend could be saved before, and S was spent
since, of which V could still be saved, then the same use would have cost (S - V) / (1 - o) without it; what that is
more than S is what it did. The share that could be saved is taken to have stayed as it was before: growth does not
count as failure, a changed mix does.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from apps.optimization.calls import Calls
from apps.optimization.coalitions import CLUSTER, saved
from apps.optimization.models import Dataset, Outcome, Recommendation
from apps.optimization.results import in_dollars
from apps.optimization.simulators import known, simulate, stage_of
from apps.optimization.statistics.bootstrap import Floats, cluster_interval

_BEFORE_SAVED, _BEFORE, _AFTER_SAVED, _AFTER = range(4)


@dataclass(frozen=True)
class Realised:
    """What was not paid since, of summed (could be saved before, spent before, could be saved since, spent since)."""

    def __call__(self, sums: Floats) -> Floats:
        left = sums[..., _AFTER] - sums[..., _AFTER_SAVED]
        value: Floats = left * _factor(sums) - sums[..., _AFTER]
        return value

    def gradient(self, sums: Floats) -> Floats:
        """The derivative of the value by each column."""
        found, factor = np.zeros_like(sums), _factor(sums)
        kept = sums[..., _BEFORE] - sums[..., _BEFORE_SAVED]
        left = sums[..., _AFTER] - sums[..., _AFTER_SAVED]
        found[..., _BEFORE_SAVED] = left * factor / kept
        found[..., _BEFORE] = -left * sums[..., _BEFORE_SAVED] / kept**2
        found[..., _AFTER_SAVED] = -factor
        found[..., _AFTER] = factor - 1
        return found


def _factor(sums: Floats) -> Floats:
    """1 / (1 - share that could be saved before)."""
    factor: Floats = sums[..., _BEFORE] / (sums[..., _BEFORE] - sums[..., _BEFORE_SAVED])
    return factor


def measure(dataset: Dataset, calls: Calls) -> int:
    """Write an outcome for every adopted recommendation of a dataset that has calls since; how many."""
    adopted = Recommendation.objects.filter(dataset=dataset, state=Recommendation.State.ADOPTED)
    return sum(_measure_one(recommendation, calls) for recommendation in adopted if recommendation.strategy in known())


def _measure_one(recommendation: Recommendation, calls: Calls) -> int:
    since = (recommendation.adopted_at or recommendation.created_at).astimezone(UTC).date()
    strategy = simulate(calls, recommendation.strategy)
    last = calls.row("SELECT max(started_at) FROM calls WHERE billed")[0]
    if strategy.saving_usd is None or last is None or last.date() < since:
        return 0
    saved(calls, {stage_of(strategy.name): f"treatment_{strategy.name}"})
    sums = _sums(calls, since)
    totals = sums.sum(axis=0)
    if not totals[_AFTER] or not totals[_BEFORE] > totals[_BEFORE_SAVED] > 0:
        return 0
    interval = cluster_interval(sums, Realised())
    could = totals[_BEFORE_SAVED] / totals[_BEFORE]
    predicted = int(could * (totals[_AFTER] + interval.value))
    _write(recommendation, calls, since, last, predicted, (interval.value, interval.low, interval.high))
    return 1


def _sums(calls: Calls, since: date) -> NDArray[np.float64]:
    """A row per cluster: could be saved before, spent before, could be saved since, spent since; pico-dollars."""
    rows = calls.connection.execute(
        f"""WITH spent AS (SELECT {CLUSTER} AS cluster, started_at::DATE >= $1 AS since, sum(cost_pico) AS pico
                           FROM calls WHERE billed AND cost_pico IS NOT NULL AND started_at IS NOT NULL GROUP BY ALL),
                 kept AS (SELECT cluster, day >= $1 AS since, sum(pico) AS pico FROM cluster_saved
                          WHERE coalition = 1 GROUP BY ALL)
            SELECT coalesce(sum(k.pico) FILTER (NOT s.since), 0)::DOUBLE AS before_saved,
                   coalesce(sum(s.pico) FILTER (NOT s.since), 0)::DOUBLE AS before,
                   coalesce(sum(k.pico) FILTER (s.since), 0)::DOUBLE AS after_saved,
                   coalesce(sum(s.pico) FILTER (s.since), 0)::DOUBLE AS after
            FROM spent s LEFT JOIN kept k USING (cluster, since) GROUP BY cluster ORDER BY cluster""",  # noqa: S608
        [since],
    ).fetchnumpy()
    return np.column_stack([rows[name] for name in ("before_saved", "before", "after_saved", "after")])


def _write(
    recommendation: Recommendation,
    calls: Calls,
    since: date,
    last: datetime,
    predicted: int,
    found: tuple[float, float | None, float | None],
) -> None:
    value, low, high = (in_dollars(None if each is None else int(each)) for each in found)
    realised = value or Decimal(0)
    expected = in_dollars(predicted) or Decimal(0)
    # The lower end of what was predicted, as a part of it; without an interval, all of it.
    least = expected
    if recommendation.low_usd is not None and recommendation.saving_usd:
        least = expected * recommendation.low_usd / recommendation.saving_usd
    count = calls.row("SELECT count(*) FROM calls WHERE billed AND started_at::DATE >= ?", [since])[0]
    Outcome.objects.update_or_create(
        recommendation=recommendation,
        to_at=last.replace(tzinfo=UTC),
        defaults={
            "from_at": datetime.combine(since, datetime.min.time(), tzinfo=UTC),
            "calls": count,
            "predicted_usd": expected,
            "realised_usd": realised,
            "low_usd": low,
            "high_usd": high,
            "held": realised >= least,
            "detail": {"method": "what could still be saved, against what could be before"},
        },
    )
