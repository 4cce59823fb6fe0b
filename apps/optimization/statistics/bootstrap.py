"""Bootstrap intervals over clusters of calls.

A matrix of sums has a row per cluster and a column per quantity (say: dollars saved, dollars spent). A statistic is a
function of the summed columns, so that a resample is a weight per cluster and all resamples are one matrix product.

What such an interval is about: the error of having seen these clusters and not others. Prices, quality and a workload
that changes are no part of it; see `widened` for the last.

Sources: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 12-14 (studentized, percentile, BCa,
jackknife acceleration); Davison and Hinkley, Bootstrap Methods and their Application (1997), 2.4 and 3.8 (ratios,
clusters); Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 69 (2015), 5.2 (few
clusters).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Literal, Protocol, assert_never

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Method = Literal["studentized", "percentile", "bca"]

RESAMPLES = 2000
ENOUGH_CLUSTERS = 30
ENOUGH_SAVERS = 10  # clusters that save something
MOST_GROUPS = 1000  # clusters beyond this are folded together: a resample of more says nothing new and costs memory
SEED = 20260105
_NORMAL = NormalDist()


class Statistic(Protocol):
    """A smooth function of summed columns."""

    def __call__(self, sums: Floats) -> Floats:
        """(..., quantities) -> (...)."""

    def gradient(self, sums: Floats) -> Floats:
        """Its derivative by each column: (..., quantities) -> (..., quantities)."""


@dataclass(frozen=True)
class Ratio:
    """Sum of one column by the sum of another; NaN where the denominator is zero."""

    numerator: int
    denominator: int

    def __call__(self, sums: Floats) -> Floats:
        below: Floats = sums[..., self.denominator]
        value: Floats = np.divide(
            sums[..., self.numerator], below, out=np.full(np.shape(below), np.nan), where=below != 0
        )
        return value

    def gradient(self, sums: Floats) -> Floats:
        found = np.zeros_like(sums)
        below = np.where(sums[..., self.denominator] == 0, np.nan, sums[..., self.denominator])
        found[..., self.numerator] += 1 / below
        found[..., self.denominator] -= sums[..., self.numerator] / below**2
        return found


@dataclass(frozen=True)
class Difference:
    """Sum of one column less the sum of another, of all clusters together."""

    first: int
    second: int

    def __call__(self, sums: Floats) -> Floats:
        return np.subtract(sums[..., self.first], sums[..., self.second])

    def gradient(self, sums: Floats) -> Floats:
        found = np.zeros_like(sums)
        found[..., self.first] += 1
        found[..., self.second] -= 1
        return found


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with its interval; no interval where `why` says so."""

    value: float
    low: float | None
    high: float | None
    level: float  # 0-1
    clusters: int
    why: str | None = None

    def contains(self, truth: float) -> bool:
        """Whether there is an interval and `truth` lies in it."""
        return self.low is not None and self.high is not None and self.low <= truth <= self.high


def cluster_interval(
    sums: Floats, statistic: Statistic, *, level: float = 0.95, method: Method = "studentized", seed: int = SEED
) -> Interval:
    """The interval of `statistic` when whole clusters (rows of `sums`) are resampled; see `cluster_intervals`."""
    return cluster_intervals(sums, statistic, levels=(level,), method=method, seed=seed)[0]


def cluster_intervals(
    sums: Floats, statistic: Statistic, *, levels: Sequence[float], method: Method = "studentized", seed: int = SEED
) -> tuple[Interval, ...]:
    """One interval for each of `levels`, from the same resamples.

    Studentized is the default: on heavy-tailed clusters it holds best what it promises (`backtest.coverage`).
    The other two are expanded to Student's t (Hesterberg 2015), which matters for tens of clusters only.
    """
    rows = np.asarray(sums, dtype=np.float64)
    value = float(statistic(rows.sum(axis=0)))
    if why := _reason(len(rows), value):
        return tuple(_none(value, level, len(rows), why) for level in levels)
    groups = folded(rows, seed=seed)
    weights = _weights(len(groups), seed)
    values = statistic(weights @ groups)
    found = []
    for level in levels:
        low, high = _ends(groups, weights, statistic, values, level, method)
        found.append(Interval(value=value, low=low, high=high, level=level, clusters=len(rows)))
    return tuple(found)


def folded(sums: Floats, *, seed: int = SEED) -> Floats:
    """At most MOST_GROUPS rows: clusters put together by lot, which leaves totals and their variance as they are."""
    if len(sums) <= MOST_GROUPS:
        return sums
    lots = np.random.default_rng(seed).permutation(len(sums)) % MOST_GROUPS
    groups = np.zeros((MOST_GROUPS, sums.shape[1]))
    np.add.at(groups, lots, sums)
    return groups


def conformal(residuals: Floats, *, level: float) -> float | None:
    """The half width that contains `level` of absolute residuals, the next one included; None with too few of them.

    Split conformal prediction: the ceil((n + 1) * level)-th smallest (Lei et al., JASA 113, 2018). Residuals are taken
    for exchangeable, which neighbouring windows of one log are only roughly.
    """
    rank = math.ceil((len(residuals) + 1) * level)
    return None if rank > len(residuals) else float(np.sort(np.abs(residuals))[rank - 1])


def widened(interval: Interval, residuals: Floats) -> Interval:
    """The interval with drift: never narrower than what the backtest missed by (`conformal` of realised - predicted).

    A residual already holds sampling error, so that the wider of the two is taken and not their sum.
    """
    drift = conformal(residuals, level=interval.level)
    if interval.low is None or interval.high is None:
        return interval
    if drift is None:
        needed = math.ceil(interval.level / (1 - interval.level) - 1e-9)
        why = f"Sampling error only: {len(residuals)} backtest windows, drift at {interval.level:.0%} needs {needed}."
        return replace(interval, why=" ".join(filter(None, (interval.why, why))))
    low, high = min(interval.low, interval.value - drift), max(interval.high, interval.value + drift)
    return replace(interval, low=low, high=high)


def of_enough(interval: Interval, savers: int) -> Interval:
    """No interval where few clusters save: resamples that miss them tell nothing of how much there is to miss."""
    if interval.low is None or savers >= ENOUGH_SAVERS:
        return interval
    why = (
        f"No interval: what is saved stands in {savers} clusters, and below {ENOUGH_SAVERS} a bootstrap is too narrow."
    )
    return replace(interval, low=None, high=None, why=why)


def _ends(
    groups: Floats, weights: Floats, statistic: Statistic, values: Floats, level: float, method: Method
) -> tuple[float, float]:
    match method:
        case "studentized":
            return _studentized(groups, weights, statistic, values, level)
        case "percentile":
            return _quantiles(values, *_tails(level, len(groups)))
        case "bca":
            return _quantiles(values, *_corrected(_tails(level, len(groups)), groups, statistic, values))
        case _:
            assert_never(method)


def _studentized(
    groups: Floats, weights: Floats, statistic: Statistic, values: Floats, level: float
) -> tuple[float, float]:
    """Value less quantiles of (resample - value) / its own error, times the error (Efron and Tibshirani 12.5)."""
    once = np.ones((1, len(groups)))
    value, error = float(statistic(groups.sum(axis=0))), float(_errors(groups, once, statistic)[0])
    errors = _errors(groups, weights, statistic)
    away = np.divide(values - value, errors, out=np.zeros_like(errors), where=errors > 0)
    low, high = _quantiles(away, (1 - level) / 2, (1 + level) / 2)
    return value - high * error, value - low * error


def _errors(groups: Floats, weights: Floats, statistic: Statistic) -> Floats:
    """The standard error of the statistic in each row of `weights`, linearised (the delta method)."""
    sums = weights @ groups
    gradient = statistic.gradient(sums)
    products = (groups[:, :, None] * groups[:, None, :]).reshape(len(groups), -1)
    squares = (weights @ products).reshape(len(weights), *[groups.shape[1]] * 2)
    variance = np.einsum("rjk,rj,rk->r", squares, gradient, gradient)
    variance -= np.einsum("rj,rj->r", sums, gradient) ** 2 / len(groups)
    errors: Floats = np.sqrt(np.maximum(variance, 0))
    return errors


@lru_cache(maxsize=2)
def _weights(count: int, seed: int) -> Floats:
    """How often each of `count` rows is drawn in each resample: multinomial, counted from draws, which is faster."""
    drawn = np.random.default_rng(seed).integers(0, count, size=(RESAMPLES, count))
    drawn += np.arange(RESAMPLES)[:, None] * count
    counted = np.bincount(drawn.ravel(), minlength=RESAMPLES * count).reshape(RESAMPLES, count)
    weights: Floats = counted.astype(np.float64)
    weights.flags.writeable = False  # the same resamples serve every statistic
    return weights


def _reason(clusters: int, value: float) -> str | None:
    if clusters < ENOUGH_CLUSTERS:
        return _too_few(clusters)
    return None if math.isfinite(value) else "No interval: the denominator is zero."


def _none(value: float, level: float, clusters: int, why: str) -> Interval:
    return Interval(value=value, low=None, high=None, level=level, clusters=clusters, why=why)


def _too_few(clusters: int) -> str:
    return f"No interval: {clusters} clusters are too few, below {ENOUGH_CLUSTERS} a bootstrap is too narrow."


def _tails(level: float, clusters: int) -> tuple[float, float]:
    """Quantiles to read, moved outwards as Student's t is wider than the normal (Hesterberg 2015, 5.2)."""
    low = _NORMAL.cdf(-math.sqrt(clusters / (clusters - 1)) * students_t((1 + level) / 2, freedom=clusters - 1))
    return low, 1 - low


def students_t(probability: float, *, freedom: int) -> float:
    """The quantile of Student's t; the expansion of Abramowitz and Stegun 26.7.5, within 1 % from 3 degrees on at 95 %.

    >>> round(students_t(0.95, freedom=5), 2), round(students_t(0.95, freedom=1000), 3)
    (2.01, 1.646)
    """
    z = _NORMAL.inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return float(z + sum(term / freedom**power for power, term in enumerate(terms, 1)))


def _corrected(tails: tuple[float, float], sums: Floats, statistic: Statistic, values: Floats) -> tuple[float, float]:
    """The quantiles moved by bias and acceleration (Efron and Tibshirani 14.10, 14.14, 14.15)."""
    value, known = float(statistic(sums.sum(axis=0))), values[np.isfinite(values)]
    below = (np.count_nonzero(known < value) + np.count_nonzero(known == value) / 2) / len(known)
    edge = 0.5 / len(known)
    bias = _NORMAL.inv_cdf(min(max(below, edge), 1 - edge))
    left_out = statistic(sums.sum(axis=0) - sums)
    away = np.nanmean(left_out) - left_out
    spread = float(np.nansum(away**2))
    acceleration = float(np.nansum(away**3)) / (6 * spread**1.5) if spread > 0 else 0.0

    def moved(tail: float) -> float:
        z = bias + _NORMAL.inv_cdf(tail)
        return _NORMAL.cdf(bias + z / (1 - acceleration * z))

    return moved(tails[0]), moved(tails[1])


def _quantiles(values: Floats, low: float, high: float) -> tuple[float, float]:
    found = np.nanquantile(values, (low, high))
    return float(found[0]), float(found[1])
