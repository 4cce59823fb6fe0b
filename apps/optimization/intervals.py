"""Intervals by resampling whole clusters of calls, because calls of one session or hour resemble each other."""

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
FEWEST = 30  # clusters; below, an interval would pretend
LEVEL = 0.95
SEED = 20260101  # the same calls give the same interval
TOO_FEW = "Only {} clusters of calls (sessions, or users' hours): too few for an interval; at least 30 are needed."


def interval_of_ratio(
    saved: NDArray[np.float64], paid: NDArray[np.float64], *, scale: int, level: float = LEVEL
) -> tuple[int | None, int | None, str | None]:
    """The interval of a saving on `scale` pico-dollars of spend, and why there is none.

    Bootstrap of the ratio sum(saved) / sum(paid) over clusters (Efron and Tibshirani 1993; percentile interval),
    RESAMPLES resamples. It holds the sampling error only: prices, habits and quality may still change.
    """
    active = paid > 0
    if active.sum() < FEWEST:
        return None, None, TOO_FEW.format(int(active.sum()))
    ratios = resampled_ratios(saved[active], paid[active])
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return int(low * scale), int(high * scale), None


def resampled_ratios(saved: NDArray[np.float64], paid: NDArray[np.float64]) -> NDArray[np.float64]:
    """sum(saved) / sum(paid) of RESAMPLES draws of as many clusters as there are, with replacement."""
    random = np.random.default_rng(SEED)
    many = len(paid)
    draws = random.multinomial(many, np.full(many, 1 / many), size=RESAMPLES)
    ratios: NDArray[np.float64] = (draws @ saved) / (draws @ paid)
    return ratios
