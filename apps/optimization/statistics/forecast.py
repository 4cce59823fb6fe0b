"""What the next days cost: last week again, or a smoothed level that must beat it, with a damped trend or without.

All look at the logarithm of daily spend. The level is the median of each weekday around the log's middle, and simple
exponential smoothing of what is left. The trend is the median slope between equal weekdays of the last weeks, and
fades, since no growth goes on for ever. Which model is used is decided by the absolute error of totals over rolling
origins; the simpler one wins a tie. A lone day that is unlike those around it is replaced by what is usual before
anything is computed: one event does not tell how often such come, and would count once in each window that holds it.

Sources: Hyndman and Athanasopoulos, Forecasting: Principles and Practice (3rd edition), 5.2 (seasonal naive), 5.5
(errors grow with the square root of time), 5.8 (errors), 8.1 (smoothing); Hirsch, Slack and Smith, Water Resources
Research 18 (1982) for the slope; Gardner and McKenzie, Management Science 31 (1985) for its damping; Hampel, JASA 69
(1974) for days that stand out; Tashman (2000) for rolling origins; intervals are conformal quantiles of residuals.
"""

import math
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from apps.optimization.statistics.anomalies import TO_SIGMA
from apps.optimization.statistics.bootstrap import Floats

ENOUGH = 14  # days (or, for hours, two cycles)
RECENT = 26  # cycles that are looked at
TREND = 8  # cycles that the slope is of
SMOOTHING = 0.3  # weight of the newest day in the level
DAMPING = 0.98  # of the slope, per step
RARE = 20  # one step in so many may stand out; where more do, they are how the workload is
STANDS_OUT = 5.0  # robust deviations
LEAST_DEVIATION = 0.1  # of the logarithm
PARTS = 4  # windows that fit into the log side by side
Model = Literal[
    "seasonal naive", "smoothed level with weekday factors", "smoothed level with weekday factors and a damped trend"
]
BASELINE: Model = "seasonal naive"
LEVEL: Model = "smoothed level with weekday factors"
TRENDING: Model = "smoothed level with weekday factors and a damped trend"
MODELS: tuple[Model, ...] = (BASELINE, LEVEL, TRENDING)


@dataclass(frozen=True, kw_only=True)
class Forecasted:
    """The next steps, and how the models did on steps that they had not seen."""

    model: Model
    values: Floats  # (horizon,)
    total: float
    low: float | None  # None: too few windows for the level
    high: float | None
    level: float  # of the interval, as promised
    ahead: int  # steps of a window
    windows: int  # rolling origins that errors and interval stand on
    baseline_error: float  # mean absolute error of a window's total, per step
    better_error: float  # the same of the better one of those that must beat it
    left_out: tuple[int, ...]  # steps of the series that stood out


def forecasted(series: Floats, *, horizon: int, cycle: int = 7, level: float = 0.8) -> Forecasted | None:
    """The next `horizon` steps of `series` (spend per step, in order, no gaps); None below two cycles and ENOUGH.

    The interval is of the total: quantiles of the relative residuals of totals over rolling origins, of windows as long
    as a quarter of the log, and of a cycle at least; beyond a window they grow with the square root of time.
    """
    spend = np.asarray(series, dtype=np.float64)[-RECENT * cycle :]
    if len(spend) < max(ENOUGH, 2 * cycle):
        return None
    wild, spend = _calmed(spend, cycle)
    first = max(cycle, ENOUGH // 2)
    ahead = min(horizon, max(cycle, (len(spend) - first) // PARTS), len(spend) - first)
    origins = range(first, len(spend) - ahead + 1)
    came = np.array([spend[origin : origin + ahead].sum() for origin in origins])
    said = {
        model: np.array([_said(model, spend[:origin], ahead, cycle).sum() for origin in origins]) for model in MODELS
    }
    errors = {model: float(np.abs(said[model] - came).mean()) / ahead for model in MODELS}
    used = min(MODELS, key=errors.__getitem__)
    values = _said(used, spend, horizon, cycle)
    margins = _margins(said[used], came, level, math.sqrt(horizon / ahead))
    total = float(values.sum())
    return Forecasted(
        model=used,
        values=values,
        total=total,
        low=total * margins[0] if margins else None,
        high=total * margins[1] if margins else None,
        level=level,
        ahead=ahead,
        windows=len(came),
        baseline_error=errors[BASELINE],
        better_error=min(errors[LEVEL], errors[TRENDING]),
        left_out=tuple(int(step) + len(series) - len(spend) for step in np.flatnonzero(wild)),
    )


def _said(model: Model, spend: Floats, ahead: int, cycle: int) -> Floats:
    if model == BASELINE:
        return np.resize(spend[-cycle:], ahead)
    logs = np.log1p(spend)
    slope = _slope(logs, cycle) if model == TRENDING else 0.0
    factors, plain = _deseasoned(logs - slope * np.arange(1 - len(logs), 1), cycle)
    reached = median(plain[:cycle])
    middle = median(plain)
    most = 3 * TO_SIGMA * median([abs(value - middle) for value in plain])
    for value in plain:
        # One wild day moves the level as far as three ordinary ones would.
        reached += SMOOTHING * min(max(value - reached, -most), most)
    steps = np.arange(ahead)
    growth = slope * np.cumsum(DAMPING ** (steps + 1))
    return np.expm1(np.maximum(reached + growth + factors[(len(logs) + steps) % cycle], 0.0))


def _slope(logs: Floats, cycle: int) -> float:
    """The median slope per step over all pairs of equal weekdays, which a few wild days do not move."""
    last = logs[-TREND * cycle :]
    slopes = [(last[apart:] - last[:-apart]) / apart for apart in range(cycle, len(last), cycle)]
    return float(np.median(np.concatenate(slopes))) if slopes else 0.0


def _deseasoned(logs: Floats, cycle: int) -> tuple[Floats, list[float]]:
    """What each weekday is above the middle, and the logarithms without it."""
    every = logs.tolist()
    middle = median(every)
    factors = np.array([median(every[step::cycle]) - middle for step in range(cycle)])
    return factors, (logs - np.resize(factors, len(logs))).tolist()


def _calmed(spend: Floats, cycle: int) -> tuple[NDArray[np.bool_], Floats]:
    """Which steps are unlike the cycle before and after them, and the series with what is usual in their place.

    Hampel's identifier on the logarithm without weekdays: a level that moves moves the median around it too.
    """
    logs = np.log1p(spend)
    slope = _slope(logs, cycle) * np.arange(len(logs))
    plain = np.array(_deseasoned(logs - slope, cycle)[1]) + slope
    starts = np.clip(np.arange(len(plain)) - cycle, 0, max(len(plain) - 2 * cycle - 1, 0))
    usual = np.array([np.median(plain[start : start + 2 * cycle + 1]) for start in starts])
    beyond = plain - usual
    wild = np.abs(beyond) > STANDS_OUT * max(TO_SIGMA * float(np.median(np.abs(beyond))), LEAST_DEVIATION)
    if np.count_nonzero(wild) > max(len(spend) // RARE, 1):
        return np.zeros(len(spend), dtype=np.bool_), spend
    return wild, np.where(wild, np.expm1(logs - beyond), spend)


def _margins(said: Floats, came: Floats, level: float, growth: float) -> tuple[float, float] | None:
    """Multiples of a forecast between which `level` of what came lay (conformal order statistics), to the power of
    `growth`; None if too few."""
    ratios = np.sort(np.divide(came, said, out=np.where(came > 0, np.inf, 1.0), where=said > 0))
    outside = math.floor((len(ratios) + 1) * (1 - level) / 2 + 1e-9)
    if outside < 1:
        return None
    if not np.isfinite(ratios[-outside]):
        return None  # money came where none was forecast: no multiple says how much
    return float(min(ratios[outside - 1], 1.0)) ** growth, float(max(ratios[-outside], 1.0)) ** growth
