"""What the next days cost: a seasonal naive baseline, and a damped level with weekday factors that must beat it.

Both look at the logarithm of daily spend. The model is the median of each weekday around the log's middle, and simple
exponential smoothing of what is left, whose trend is none: a level that is damped towards nothing but itself does not
run away. Whichever had the smaller absolute error over rolling origins is used.

Sources: Hyndman and Athanasopoulos, Forecasting: Principles and Practice (3rd edition), 5.2 (seasonal naive), 5.8
(errors), 8.1 (smoothing); Tashman (2000) for rolling origins; intervals are conformal quantiles of their residuals.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from apps.optimization.statistics.bootstrap import Floats

ENOUGH = 14  # days (or, for hours, two cycles)
SMOOTHING = 0.3  # weight of the newest day in the level
Model = Literal["seasonal naive", "smoothed level with weekday factors"]
BASELINE: Model = "seasonal naive"
BETTER: Model = "smoothed level with weekday factors"


@dataclass(frozen=True, kw_only=True)
class Forecasted:
    """The next steps, and how the two models did on steps that they had not seen."""

    model: Model
    values: Floats  # (horizon,)
    total: float
    low: float | None  # None: too few windows for the level
    high: float | None
    level: float  # of the interval, as promised
    windows: int  # rolling origins that the interval stands on
    baseline_error: float  # mean absolute error of a step
    better_error: float


def forecasted(series: Floats, *, horizon: int, cycle: int = 7, level: float = 0.8) -> Forecasted | None:
    """The next `horizon` steps of `series` (spend per step, in order, no gaps); None below two cycles and ENOUGH.

    The interval is of the total: quantiles of the relative residuals of totals over rolling origins, of as many steps
    as the log allows up to `horizon`.
    """
    spend = np.asarray(series, dtype=np.float64)
    if len(spend) < max(ENOUGH, 2 * cycle):
        return None
    first = max(cycle, ENOUGH // 2)
    ahead = min(horizon, cycle, len(spend) - first)
    origins = range(first, len(spend) - ahead + 1)
    naive = np.array([_naive(spend[:origin], ahead, cycle) for origin in origins])
    smooth = np.array([_smoothed(spend[:origin], ahead, cycle) for origin in origins])
    came = np.array([spend[origin : origin + ahead] for origin in origins])
    errors = float(np.abs(naive - came).mean()), float(np.abs(smooth - came).mean())
    beaten = errors[1] < errors[0]
    values = (_smoothed if beaten else _naive)(spend, horizon, cycle)
    margins = _margins((smooth if beaten else naive).sum(axis=1), came.sum(axis=1), level)
    total = float(values.sum())
    return Forecasted(
        model=BETTER if beaten else BASELINE,
        values=values,
        total=total,
        low=total * margins[0] if margins else None,
        high=total * margins[1] if margins else None,
        level=level,
        windows=len(came),
        baseline_error=errors[0],
        better_error=errors[1],
    )


def _naive(spend: Floats, ahead: int, cycle: int) -> Floats:
    return np.resize(spend[-cycle:], ahead)


def _smoothed(spend: Floats, ahead: int, cycle: int) -> Floats:
    logs = np.log1p(spend)
    steps = np.arange(len(logs)) % cycle
    middle = np.median(logs)
    factors = np.array([np.median(logs[steps == step]) - middle for step in range(cycle)])
    plain = logs - factors[steps]
    level = float(np.median(plain[:cycle]))
    spread = 1.4826 * float(np.median(np.abs(plain - np.median(plain))))
    for value in plain:
        # One wild day moves the level as far as three ordinary ones would.
        level += SMOOTHING * float(np.clip(value - level, -3 * spread, 3 * spread))
    return np.expm1(level + factors[(len(logs) + np.arange(ahead)) % cycle])


def _margins(said: Floats, came: Floats, level: float) -> tuple[float, float] | None:
    """Multiples of a forecast between which `level` of what came lay (conformal order statistics); None if too few."""
    ratios = np.sort(np.divide(came, said, out=np.ones_like(came), where=said > 0))
    outside = math.floor((len(ratios) + 1) * (1 - level) / 2 + 1e-9)
    if outside < 1:
        return None
    return float(min(ratios[outside - 1], 1.0)), float(max(ratios[-outside], 1.0))
