"""How well anomalies are found: spikes of known size put into a log that is known to have none."""

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from random import Random
from typing import Any

from apps.optimization.anomalies import anomalies
from apps.optimization.calls import Calls
from apps.optimization.duck import quoted

SIZES = (0.15, 0.3, 0.6)  # of an ordinary day's spend


@dataclass(frozen=True, kw_only=True)
class Recall:
    """Spikes of one size."""

    size: float  # of an ordinary day's spend
    spikes: int
    found: float  # share that an anomaly overlaps, 0-1
    named: float  # share of spikes whose feature is the largest shift in the mix of the anomaly found, 0-1
    precision: float  # share of the anomalies that overlap a spike, 0-1; 1 where none was found
    false_alarms: float  # anomalies that overlap no spike, per 30 days


def recall(
    calls: Calls, *, sizes: tuple[float, ...] = SIZES, spikes: int = 20, minimum_usd: Decimal, seed: int = 1
) -> tuple[Recall, ...]:
    """Put `spikes` spikes of each size, one at a time, into `calls` and look for them.

    A spike is one feature that repeats what it did in an hour until the size is reached. Hides the view `calls` of
    this connection behind a temporary one while it works.
    """
    calls.connection.execute("CREATE OR REPLACE TEMP TABLE calm AS FROM calls")
    days, spent = calls.row(
        "SELECT date_diff('day', min(started_at), max(started_at)) + 1, sum(cost_pico)::DOUBLE FROM calm WHERE billed"
    )
    places = calls.rows(
        """SELECT date_trunc('hour', started_at) AS hour, feature, sum(cost_pico)::DOUBLE AS cost FROM calm
           WHERE billed AND feature IS NOT NULL GROUP BY ALL HAVING cost > 0 ORDER BY 1, 2"""
    )
    try:
        return tuple(
            _recall(calls, Random(seed).sample(places, spikes), size, days, spent, minimum_usd)  # noqa: S311
            for size in sizes
        )
    finally:
        calls.connection.execute("DROP VIEW IF EXISTS temp.calls")
        calls.connection.execute("DROP TABLE calm")


def _recall(
    calls: Calls, places: list[tuple[Any, ...]], size: float, days: int, spent: float, minimum_usd: Decimal
) -> Recall:
    hits = named = wrong = 0
    for hour, feature, cost in places:
        copies = max(1, round(size * spent / days / cost))
        calls.connection.execute(
            f"""CREATE OR REPLACE TEMP VIEW calls AS FROM calm UNION ALL
                SELECT calm.* FROM calm, range({copies}) WHERE feature = {quoted(feature)}
                AND date_trunc('hour', started_at) = TIMESTAMP {quoted(str(hour))}"""  # noqa: S608
        )
        found = anomalies(calls, minimum_usd=minimum_usd) or ()
        at = [each for each in found if each.from_.replace(tzinfo=None) <= hour < each.to.replace(tzinfo=None)]
        hits += bool(at)
        wrong += len(found) - len(at)
        shifts = [c.feature for c in at[0].detail.contributions if c.factor == "mix" and c.usd > 0] if at else []
        named += shifts[:1] == [feature]
    count = len(places)
    per_month = timedelta(days=30) / timedelta(days=days)
    return Recall(
        size=size,
        spikes=count,
        found=hits / count,
        named=named / count,
        precision=hits / (hits + wrong) if hits + wrong else 1.0,
        false_alarms=wrong / count * per_month,
    )
