"""What predictions were worth: rolling origin, and how often the intervals hold where the truth is known.

Source: Tashman, "Out-of-sample tests of forecasting accuracy", International Journal of Forecasting 16 (2000).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apps.optimization.statistics.bootstrap import ENOUGH_CLUSTERS, Floats, Interval, Ratio, cluster_intervals

LEVELS = (0.8, 0.95)
CLUSTER_COUNTS = (30, 60, 120, 300)


@dataclass(frozen=True, kw_only=True)
class Window:
    """One origin: what the log until then promised, and what came."""

    origin: int  # the first block that was not seen
    predicted: float
    intervals: tuple[Interval, ...]  # one for each of LEVELS
    realised: float


@dataclass(frozen=True, kw_only=True)
class Backtest:
    """All origins together. Shares are None where no window had an interval."""

    windows: tuple[Window, ...]
    bias: float | None  # mean of predicted - realised
    mape: float | None  # mean of |predicted - realised| / |realised|, over windows that realised something
    contained: tuple[float | None, ...]  # share of intervals with the truth in them, for each of LEVELS

    @property
    def residuals(self) -> Floats:
        """Realised - predicted, a value per window: what `bootstrap.widened` takes as drift."""
        return np.array([window.realised - window.predicted for window in self.windows], dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How often intervals contained the truth of made-up workloads."""

    clusters: int
    level: float
    held: float  # 0-1
    error: float  # standard error of `held` by Monte Carlo, at the level promised
    trials: int


def backtest(sums: Floats, *, first: int = ENOUGH_CLUSTERS, horizon: int = 1) -> Backtest:
    """A strategy without parameters: the share saved (column 0 by column 1) until an origin, against the next blocks.

    A row is a block of time. The first origin is after `first` blocks; each next one `horizon` further.
    """
    rows, share = np.asarray(sums, dtype=np.float64), Ratio(0, 1)
    windows = []
    for origin in range(first, len(rows) - horizon + 1, horizon):
        realised = float(share(rows[origin : origin + horizon].sum(axis=0)))
        if not np.isfinite(realised):
            continue  # nothing was paid; years of that would take minutes
        intervals = cluster_intervals(rows[:origin], share, levels=LEVELS)
        windows.append(Window(origin=origin, predicted=intervals[0].value, intervals=intervals, realised=realised))
    return judged(windows)


def judged(windows: Sequence[Window]) -> Backtest:
    """The figures over `windows`."""
    errors = [window.predicted - window.realised for window in windows]
    shares = [abs(w.predicted - w.realised) / abs(w.realised) for w in windows if w.realised]
    contained = []
    for number, _ in enumerate(LEVELS):
        told = [w for w in windows if w.intervals[number].low is not None]
        contained.append(_mean([float(w.intervals[number].contains(w.realised)) for w in told]))
    return Backtest(windows=tuple(windows), bias=_mean(errors), mape=_mean(shares), contained=tuple(contained))


def coverage(*, clusters: Sequence[int] = CLUSTER_COUNTS, trials: int = 400, seed: int = 1) -> tuple[Coverage, ...]:
    """Coverage of `cluster_intervals` on `workload`s with a known saved share, by number of clusters and level."""
    found = []
    for count in clusters:
        random = np.random.default_rng([seed, count])
        held = np.zeros(len(LEVELS))
        for trial in range(trials):
            sums, truth = workload(random, clusters=count)
            intervals = cluster_intervals(sums, Ratio(0, 1), levels=LEVELS, seed=trial)
            held += [interval.contains(truth) for interval in intervals]
        for level, hits in zip(LEVELS, held, strict=True):
            error = float(np.sqrt(level * (1 - level) / trials))
            found.append(Coverage(clusters=count, level=level, held=float(hits / trials), error=error, trials=trials))
    return tuple(found)


def workload(random: np.random.Generator, *, clusters: int) -> tuple[Floats, float]:
    """Sums (saved, spent) of made-up sessions, and the true share that is saved.

    Sessions have a geometric number of calls; the cost of a call is log-normal (sigma 1) with a part that the session's
    calls share; weekday sessions, five of seven, are dearer and save less. A call saves all of its cost or nothing,
    with a probability that varies by session (Beta), so that calls of a session go together.
    """
    weekday = random.random(clusters) < 5 / 7
    calls = random.geometric(0.25, clusters)
    session = np.repeat(np.arange(clusters), calls)
    common = random.normal(0, 0.5, clusters)
    cost = np.exp(random.normal(0, 1, len(session)) + common[session]) * np.where(weekday, 1.5, 1.0)[session]
    saves = random.beta(np.where(weekday, 2.0, 3.0), np.where(weekday, 5.0, 3.0))
    saved = cost * (random.random(len(session)) < saves[session])
    sums = np.stack((np.bincount(session, saved, clusters), np.bincount(session, cost, clusters)), axis=1).astype(float)
    # Sizes, costs and chances are drawn apart within a kind of day: the expected sums divide.
    dear, cheap = 5 / 7 * 1.5, 2 / 7
    return sums, (dear * 2 / 7 + cheap * 3 / 6) / (dear + cheap)


def lasting(random: np.random.Generator, *, days: int, memory: float) -> tuple[Floats, float]:
    """Sums (saved, spent) of each hour of made-up days, and the true share that is saved.

    The logarithm of the calls of an hour, about twenty, and the share of them that is saved follow a level each, which
    is autoregressive of order one with `memory` from hour to hour.
    """
    levels = random.normal(size=(24 * days, 2))
    for hour in range(1, len(levels)):
        levels[hour] = memory * levels[hour - 1] + np.sqrt(1 - memory**2) * levels[hour]
    calls = random.poisson(20 * np.exp(levels[:, 0] / 2))
    share = 0.3
    saved = random.binomial(calls, share * (1 + 0.8 * np.tanh(levels[:, 1])))  # as often above it as below
    return np.stack((saved, calls), axis=1).astype(float), share


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
