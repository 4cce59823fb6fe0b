"""What the next days will cost, if the workload goes on as it did."""

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import numpy as np

from apps.optimization.calls import Calls
from apps.optimization.results import Forecast, ForecastDay, in_dollars
from apps.optimization.statistics.forecast import ENOUGH, Forecasted, forecasted

DAYS = 28
UNIT = 1e6  # pico-dollars in a micro-dollar: what the model counts in
FEW_WINDOWS = 20
CUT = 2.4 * 3600  # seconds by which a day may begin late or end early and still be whole


def forecast(calls: Calls, *, days: int = DAYS) -> Forecast:
    """Daily spend (UTC) over `days` days; one pass.

    A first day that begins later than days do, or a last one that ends earlier, is a part of a day and is left out.
    """
    spend = _whole_days(
        calls.rows(
            """SELECT started_at::DATE, sum(cost_pico), min(epoch(started_at) % 86400), max(epoch(started_at) % 86400)
               FROM calls WHERE billed AND cost_pico IS NOT NULL AND started_at IS NOT NULL GROUP BY 1 ORDER BY 1"""
        )
    )
    if not spend:
        return Forecast(days=days, usd=None, why="No whole day with a known cost.")
    first, last = min(spend), max(spend)
    series = np.array([spend.get(first + timedelta(days=n), 0) / UNIT for n in range((last - first).days + 1)])
    made = forecasted(series, horizon=days)
    if made is None:
        return Forecast(days=days, usd=None, why=f"{len(series)} whole days; a forecast needs {ENOUGH}.")
    return Forecast(
        days=days,
        usd=_usd(made.total),
        low=None if made.low is None else _usd(made.low),
        high=None if made.high is None else _usd(made.high),
        level=made.level,
        why=_why(made, days, [first + timedelta(days=n) for n in made.left_out]),
        model=made.model,
        baseline_error_usd=_usd(made.baseline_error),
        better_error_usd=_usd(made.better_error),
        windows=made.windows,
        by_day=tuple(
            ForecastDay(day=last + timedelta(days=n), usd=_usd(value)) for n, value in enumerate(made.values, start=1)
        ),
    )


def _why(made: Forecasted, days: int, left_out: list[date]) -> str:
    if made.low is None:
        said = f"No interval: {made.windows} windows of this log are too few to say how far forecasts miss."
    else:
        longer = f", wider by the square root of {days} / {made.ahead}" if days > made.ahead else ""
        few = "; that few windows are a first guess" if made.windows < FEW_WINDOWS else ""
        missed = f"totals of {made.ahead} days missed in {made.windows} windows of this log"
        said = f"The interval is how far {missed}{longer}{few}."
    if left_out:
        listed = ", ".join(map(str, left_out))
        said += f" Unlike all days around and left out: {listed}. What another such day brings comes on top."
    return said


def _whole_days(rows: list[tuple[Any, ...]]) -> dict[date, int]:
    spend = {day: int(cost) for day, cost, _, _ in rows}
    if len(rows) < 3:
        return {}
    starts, ends = (np.array([row[column] for row in rows], dtype=np.float64) for column in (2, 3))
    if starts[0] > np.median(starts) + CUT:
        del spend[rows[0][0]]
    if ends[-1] < np.median(ends) - CUT:
        del spend[rows[-1][0]]
    return spend


def _usd(micro: float) -> Decimal:
    return in_dollars(round(micro * UNIT)) or Decimal(0)
