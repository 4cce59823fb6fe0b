"""What an adopted way to save did, measured on the calls since: what it would still save, against what it would have.

A way to save leaves less to be saved where it is used. If a share o of a feature's spend could be saved before, and S
was spent on it since, of which V could still be saved, then the same use would have cost (S - V) / (1 - o) without it;
what that is more than S is what it did. Features are measured one by one and added up, so that neither growth nor a
changed mix of features counts as failure; within a feature, the share that could be saved is taken to have stayed. A
feature of which nothing could be saved before adds nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.llm.pricing import Stage
from apps.optimization.calls import Calls
from apps.optimization.coalitions import CLUSTER, saved
from apps.optimization.models import Dataset, Outcome, Recommendation
from apps.optimization.results import in_dollars
from apps.optimization.simulators import Options, known, learnt_until, simulate, stage_of
from apps.optimization.statistics.bootstrap import Floats, cluster_interval, of_enough
from apps.optimization.statistics.dependence import resembling

MOST_FEATURES = 8  # measured each by itself, the dearest first; the others together

_BEFORE_SAVED, _BEFORE, _AFTER_SAVED, _AFTER = range(4)


@dataclass(frozen=True)
class Realised:
    """What was not paid since, of summed columns: for each feature (could be saved before, spent before, could be saved
    since, spent since).

    `paid` is what was paid since for each feature. That is known; an interval is about the shares of it, so the sums
    tell these alone.
    """

    paid: Floats

    def __call__(self, sums: Floats) -> Floats:
        each = _by_feature(sums)
        value: Floats = np.where(_could(each), self.paid * (_left(each) * _factor(each) - 1), 0).sum(axis=-1)
        return value

    def gradient(self, sums: Floats) -> Floats:
        """The derivative of the value by each column."""
        each = _by_feature(sums)
        found, factor = np.zeros_like(each), _factor(each)
        left, kept, spent = _left(each), _kept(each), _spent(each)
        found[..., _BEFORE_SAVED] = left * factor / kept
        found[..., _BEFORE] = -left * each[..., _BEFORE_SAVED] / kept**2
        found[..., _AFTER_SAVED] = -factor / spent
        found[..., _AFTER] = factor * each[..., _AFTER_SAVED] / spent**2
        weighed = found * np.asarray(self.paid)[..., None]
        gradient: Floats = np.where(_could(each)[..., None], weighed, 0).reshape(np.shape(sums))
        return gradient


def _by_feature(sums: Floats) -> Floats:
    return np.reshape(sums, (*np.shape(sums)[:-1], -1, 4))


def _could(each: Floats) -> NDArray[np.bool_]:
    """Whether a part of a feature, and not all of it, could be saved before."""
    possible: NDArray[np.bool_] = (each[..., _BEFORE_SAVED] > 0) & (each[..., _BEFORE] > each[..., _BEFORE_SAVED])
    return possible


def _kept(each: Floats) -> Floats:
    """What was spent before and could not be saved; 1 where that says nothing, and the result is not used."""
    return np.where(_could(each), each[..., _BEFORE] - each[..., _BEFORE_SAVED], 1)


def _spent(each: Floats) -> Floats:
    """What was spent since; 1 where that is nothing, and so is what could be saved of it."""
    return np.where(each[..., _AFTER] > 0, each[..., _AFTER], 1)


def _left(each: Floats) -> Floats:
    """Share of what was spent since that could not be saved any more."""
    left: Floats = 1 - each[..., _AFTER_SAVED] / _spent(each)
    return left


def _factor(each: Floats) -> Floats:
    """1 / (1 - share that could be saved before)."""
    factor: Floats = each[..., _BEFORE] / _kept(each)
    return factor


def measure(dataset: Dataset, calls: Calls) -> int:
    """Write an outcome for every adopted recommendation of a dataset that has calls since; how many."""
    adopted = Recommendation.objects.filter(dataset=dataset, state=Recommendation.State.ADOPTED)
    return sum(_measure_one(recommendation, calls) for recommendation in adopted if recommendation.strategy in known())


def _measure_one(recommendation: Recommendation, calls: Calls) -> int:
    since = (recommendation.adopted_at or recommendation.created_at).astimezone(UTC).date()
    # What is learnt is learnt on the earlier half of the calls before; so there are always days before to compare with.
    began = datetime.combine(since, datetime.min.time(), tzinfo=UTC)
    options = Options(**recommendation.detail.get("options", {}), learn_before=began)
    strategy = simulate(calls, recommendation.strategy, options)
    last = calls.row("SELECT max(started_at) FROM calls WHERE billed")[0]
    if strategy.saving_usd is None or last is None or last.date() < since:
        return 0
    stage = stage_of(strategy.name)
    clusters, days = _sums(calls, {stage: f"treatment_{strategy.name}"}, since, learnt_until(strategy))
    each = _by_feature(clusters.sum(axis=0))
    if not each[:, _AFTER].sum() or not _could(each).any():
        return 0
    realised = Realised(each[:, _AFTER])
    savers = int(np.count_nonzero(_by_feature(clusters)[..., _BEFORE_SAVED].any(axis=1)))
    interval = of_enough(resembling(cluster_interval(clusters, realised), days, clusters, realised), savers)
    predicted = int(_predicted(each))
    _write(recommendation, calls, since, last, predicted, (interval.value, interval.low, interval.high))
    return 1


def _predicted(each: Floats) -> float:
    """What would have been saved since, had all been done that could be done before."""
    without = (each[:, _AFTER] - each[:, _AFTER_SAVED]) * _factor(each)
    share = each[:, _BEFORE_SAVED] / np.where(each[:, _BEFORE] > 0, each[:, _BEFORE], 1)
    return float(np.where(_could(each), without * share, 0).sum())


def _sums(calls: Calls, treatments: dict[Stage, str], since: date, learnt: date | None = None) -> tuple[Floats, Floats]:
    """A row per cluster, and one per day; of each feature: could be saved before, spent before, could be saved since,
    spent since; pico-dollars. Days until `learnt` are left out: a strategy that learns from them counts nothing on
    them."""
    features = [
        name
        for (name,) in calls.rows(
            """SELECT feature FROM calls WHERE billed AND cost_pico IS NOT NULL AND feature IS NOT NULL
               GROUP BY 1 ORDER BY sum(cost_pico) DESC, 1 LIMIT ?""",
            [MOST_FEATURES],
        )
    ]
    calls.connection.execute("SET VARIABLE outcome_features = ?::VARCHAR[]", [features])
    width = MOST_FEATURES + 1
    # Cluster and feature in one number, since what is saved is summed by one.
    both = f"({CLUSTER}) * {width} + coalesce(list_position(getvariable('outcome_features'), feature), 0)"
    saved(calls, treatments, cluster=both)
    rows = calls.connection.execute(
        f"""WITH spent AS (SELECT {both} AS place, started_at::DATE AS day, sum(cost_pico) AS pico
                           FROM calls WHERE billed AND cost_pico IS NOT NULL AND started_at IS NOT NULL
                             AND ($2 IS NULL OR started_at::DATE > $2) GROUP BY ALL),
                 kept AS (SELECT cluster AS place, day, sum(pico) AS pico FROM cluster_saved
                          WHERE coalition = 1 GROUP BY ALL),
                 parts AS (SELECT place // {width} AS cluster, (place % {width})::INTEGER AS feature, s.day,
                                  s.day >= $1 AS since, k.pico AS saved, s.pico AS spent
                           FROM spent s LEFT JOIN kept k USING (place, day))
            SELECT grouping(cluster) = 1 AS of_day, cluster, day, feature, since,
                   coalesce(sum(saved), 0)::DOUBLE AS saved, sum(spent)::DOUBLE AS spent
            FROM parts GROUP BY GROUPING SETS ((cluster, feature, since), (day, feature, since)) ORDER BY ALL""",  # noqa: S608
        [since, learnt],
    ).fetchnumpy()
    of_day = np.asarray(rows["of_day"], dtype=bool)
    return _matrix(rows, ~of_day, "cluster", width), _matrix(rows, of_day, "day", width)


def _matrix(rows: Mapping[str, NDArray[Any]], which: NDArray[np.bool_], by: str, width: int) -> Floats:
    """The rows of `which` as a row for each value of `by`, in order."""
    values, place = np.unique(np.asarray(rows[by])[which], return_inverse=True)
    feature, column = rows["feature"][which], np.where(rows["since"][which], _AFTER_SAVED, _BEFORE_SAVED)
    sums = np.zeros((len(values), width, 4))
    sums[place, feature, column] = rows["saved"][which]
    sums[place, feature, column + 1] = rows["spent"][which]
    return sums.reshape(len(values), -1)


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
            "detail": {"method": "what could still be saved of each feature, against what could be before"},
        },
    )
