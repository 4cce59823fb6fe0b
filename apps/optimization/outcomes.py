"""What an adopted way to save did, measured on the calls since: what it would still save, against what it would have.

The arithmetic is in `statistics/realised.py`; here is what it is done with.
"""

from collections.abc import Mapping
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
from apps.optimization.statistics.bootstrap import Floats
from apps.optimization.statistics.realised import Realised, by_feature, could

MOST_FEATURES = 8  # measured each by itself, the dearest first; the others together


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
    before, days, after, clusters = _sums(calls, {stage: f"treatment_{strategy.name}"}, since, learnt_until(strategy))
    sums = before.sum(axis=0)
    if not clusters or not could(by_feature(sums)).any():
        return 0
    left, paid = by_feature(after).T
    realised = Realised(paid=paid, left=left)
    interval = realised.interval(before, days, clusters)
    ends = (interval.value, interval.low, interval.high)
    _write(recommendation, calls, since, last, int(realised.predicted(sums)), ends)
    return 1


def _sums(
    calls: Calls, treatments: dict[Stage, str], since: date, learnt: date | None
) -> tuple[Floats, Floats, Floats, int]:
    """What can be saved and was spent of each feature, in pico-dollars: before, by clusters and by days (none left
    out); since, in all; and how many clusters there are since. Days until `learnt` are left out: a strategy that learns
    from them counts nothing on them."""
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
    place = f"({CLUSTER}) * {width} + coalesce(list_position(getvariable('outcome_features'), feature), 0)"
    saved(calls, treatments, cluster=place)
    rows = calls.connection.execute(
        f"""WITH spent AS (SELECT {place} AS place, started_at::DATE AS day, sum(cost_pico) AS pico
                           FROM calls WHERE billed AND cost_pico IS NOT NULL AND started_at IS NOT NULL
                             AND ($2 IS NULL OR started_at::DATE > $2) GROUP BY ALL),
                 kept AS (SELECT cluster AS place, day, sum(pico) AS pico FROM cluster_saved
                          WHERE coalition = 1 GROUP BY ALL),
                 parts AS (SELECT place // {width} AS cluster, (place % {width})::INTEGER AS feature, s.day,
                                  s.day >= $1 AS since, k.pico AS saved, s.pico AS spent
                           FROM spent s LEFT JOIN kept k USING (place, day))
            SELECT since, grouping(cluster) = 1 AS of_day, cluster, day, feature,
                   coalesce(sum(saved), 0)::DOUBLE AS saved, sum(spent)::DOUBLE AS spent
            FROM parts GROUP BY GROUPING SETS ((since, cluster, feature), (since, day, feature)) ORDER BY ALL""",  # noqa: S608
        [since, learnt],
    ).fetchnumpy()
    later, of_day = (np.asarray(rows[name], dtype=bool) for name in ("since", "of_day"))
    by_cluster, by_day, since_by_cluster = ~later & ~of_day, ~later & of_day, later & ~of_day
    clusters, days = np.asarray(rows["cluster"]), np.asarray(rows["day"], dtype="datetime64[D]")[by_day].astype(int)
    return (
        _matrix(rows, by_cluster, np.unique(clusters[by_cluster], return_inverse=True)[1], width),
        _matrix(rows, by_day, days - min(days, default=0), width),
        _matrix(rows, since_by_cluster, np.zeros(np.count_nonzero(since_by_cluster), int), width).sum(axis=0),
        len(np.unique(clusters[since_by_cluster])),
    )


def _matrix(rows: Mapping[str, NDArray[Any]], which: NDArray[np.bool_], places: NDArray[Any], width: int) -> Floats:
    """What can be saved and was spent of each feature, summed by `places`; one without calls is a row of zeros."""
    sums = np.zeros((max(places, default=-1) + 1, width, 2))
    for column, name in enumerate(("saved", "spent")):
        np.add.at(sums[..., column], (places, rows["feature"][which]), rows[name][which])
    return sums.reshape(len(sums), 2 * width)


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
    # The lower end of what was predicted, as a part of it; all of it where there is none, or nothing would reach it.
    least = expected
    if recommendation.low_usd is not None and recommendation.low_usd > 0 and recommendation.saving_usd:
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
