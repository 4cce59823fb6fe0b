"""Hours and days that cost far more than their like, and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.optimization.calls import Calls
from apps.optimization.changes import GROUP, compare, period, sums
from apps.optimization.results import Anomaly, in_dollars
from apps.optimization.statistics.anomalies import unusual
from apps.optimization.statistics.bootstrap import Floats

ENOUGH_DAYS = 14
FULL_WEEKS = 28  # days from which every hour of the week has its own median
MINIMUM_USD = Decimal(1)
SHARE_OF_DAY = 0.1  # of an ordinary day's spend, that an hour must add to matter
DAY_SHARE, HOUR_SHARE = 0.25, 1.0  # of the usual spend, that must come on top
SHOWN = 10
HOUR = timedelta(hours=1)
PICO = 1e12


@dataclass(frozen=True, kw_only=True)
class _Span:
    """Hours that stand out, and those they are compared with, as numbers of hours since the log's first midnight."""

    hours: NDArray[np.int64]
    usual: tuple[NDArray[np.int64], ...]  # for each of `hours`


def anomalies(calls: Calls, *, minimum_usd: Decimal = MINIMUM_USD) -> tuple[Anomaly, ...] | None:
    """At most SHOWN spans, in time order; None below ENOUGH_DAYS. Two passes, and one more for the users.

    An hour is compared with the same hour of the same weekday, in logs below FULL_WEEKS of working days or of
    weekends. A day is compared with the same weekday, or with working days or weekends, likewise.
    """
    found = calls.rows(
        """SELECT date_trunc('hour', started_at), sum(cost_pico)::DOUBLE FROM calls
           WHERE billed AND cost_pico IS NOT NULL AND started_at IS NOT NULL GROUP BY 1 ORDER BY 1"""
    )
    if not found:
        return None
    midnight = found[0][0].replace(hour=0)
    spend = np.zeros(24 * ((found[-1][0] - midnight).days + 1))
    for hour, cost in found:
        spend[(hour - midnight) // HOUR] = cost / PICO
    if len(spend) < 24 * ENOUGH_DAYS:
        return None
    spans = _spans(spend, midnight.weekday(), float(minimum_usd))
    return _explained(calls, midnight, spans, spend > 0) if spans else ()


def _spans(spend: Floats, weekday: int, minimum: float) -> list[_Span]:
    """What stands out: days first, then hours of the other days, neighbours together; the dearest SHOWN of them."""
    days = spend.reshape(-1, 24).sum(axis=1)
    weekdays = (weekday + np.arange(len(days))) % 7
    kinds = weekdays if len(days) >= FULL_WEEKS else (weekdays >= 5).astype(np.int64)
    wild_days = unusual(days, kinds, minimum=minimum, share=DAY_SHARE)
    hours = np.repeat(kinds, 24) * 24 + np.tile(np.arange(24), len(days))
    least = max(minimum, SHARE_OF_DAY * float(np.median(days)))
    wild_hours = unusual(spend, hours, minimum=least, share=HOUR_SHARE) & ~np.repeat(wild_days, 24)
    wild = np.repeat(wild_days, 24) | wild_hours
    runs = [np.arange(24 * day, 24 * day + 24) for day in np.flatnonzero(wild_days)]
    lone = np.flatnonzero(wild_hours)
    runs += np.split(lone, np.flatnonzero(np.diff(lone) > 1) + 1) if len(lone) else []
    spans = [
        _Span(hours=run, usual=tuple(np.flatnonzero((hours == hours[hour]) & ~wild) for hour in run)) for run in runs
    ]
    compared = [span for span in spans if all(len(usual) for usual in span.usual)]
    excess = [sum(spend[h] - spend[u].mean() for h, u in zip(s.hours, s.usual, strict=True)) for s in compared]
    dearest = sorted(np.argsort(excess)[::-1][:SHOWN], key=lambda number: int(compared[number].hours[0]))
    return [compared[number] for number in dearest if excess[number] > 0]


def _explained(
    calls: Calls, midnight: datetime, spans: Sequence[_Span], spent: NDArray[np.bool_]
) -> tuple[Anomaly, ...]:
    columns = "number INTEGER, hour TIMESTAMP, sign INTEGER, weight DOUBLE"
    calls.connection.execute(f"CREATE OR REPLACE TEMP TABLE spans ({columns})")
    calls.connection.executemany("INSERT INTO spans VALUES (?, ?, ?, ?)", _weights(midnight, spans, spent))
    joined = "calls JOIN spans ON date_trunc('hour', started_at) = hour WHERE billed AND cost_pico IS NOT NULL"
    rows = calls.rows(f"SELECT number, sign, {GROUP}, {sums('weight')} FROM {joined} GROUP BY ALL")  # noqa: S608
    users = calls.rows(
        f"""SELECT number, "user", sum(cost_pico * weight * sign) AS excess FROM {joined} AND "user" IS NOT NULL
            GROUP BY 1, 2 QUALIFY row_number() OVER (PARTITION BY number ORDER BY excess DESC) = 1"""  # noqa: S608
    )
    calls.connection.execute("DROP TABLE spans")
    first = {number: (user, excess) for number, user, excess in users}
    return tuple(
        _anomaly(calls, midnight, span, [row[1:] for row in rows if row[0] == number], first.get(number))
        for number, span in enumerate(spans)
    )


def _weights(
    midnight: datetime, spans: Sequence[_Span], spent: NDArray[np.bool_]
) -> list[tuple[int, datetime, int, float]]:
    """Number, hour, sign and weight: the hours that stand out count once, those they are compared with on average; of
    hours in which nothing was `spent`, of which years may lie between two calls, there is nothing to count."""
    rows = []
    for number, span in enumerate(spans):
        for hour, usual in zip(span.hours, span.usual, strict=True):
            rows.append((number, midnight + int(hour) * HOUR, 1, 1.0))
            rows += [(number, midnight + int(other) * HOUR, -1, 1 / len(usual)) for other in usual if spent[other]]
    return rows


def _anomaly(
    calls: Calls, midnight: datetime, span: _Span, rows: Sequence[tuple[Any, ...]], user: tuple[str, float] | None
) -> Anomaly:
    usual, seen = (period((row[1:] for row in rows if row[0] == sign), calls.catalogue) for sign in (-1, 1))
    detail = compare(usual, seen)
    return Anomaly(
        **{"from": (midnight + int(span.hours[0]) * HOUR).replace(tzinfo=UTC)},
        to=(midnight + int(span.hours[-1] + 1) * HOUR).replace(tzinfo=UTC),
        excess_usd=detail.change_usd,
        cause=detail.cause or "",
        user=user[0] if user else None,
        user_excess_usd=in_dollars(round(user[1])) if user else None,
        detail=detail,
    )
