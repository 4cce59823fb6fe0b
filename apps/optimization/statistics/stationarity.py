"""Whether a log is the same at its end as at its beginning, before any interval from it is believed.

A permutation test over runs of neighbouring blocks: under stationarity the order of the runs says nothing. Runs and not
single blocks are shuffled, because neighbours resemble each other. Source: Good, Permutation, Parametric, and Bootstrap
Tests of Hypotheses (2005), 3.5 and 6; p counts the log itself (Phipson and Smyth 2010), so that it is never zero.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from apps.optimization.statistics.bootstrap import SEED, Floats, Ratio

SHUFFLES = 2000
ENOUGH_RUNS = 9  # three in each third
SURE = 0.05
_share = Ratio(0, 1)
NOTABLE = 0.05  # of the whole: with millions of calls the smallest difference is sure, and still does not matter


@dataclass(frozen=True, kw_only=True)
class Stationarity:
    """The verdict about a ratio of sums over time."""

    verdict: Literal["stationary", "drifting", "unknown"]
    halves: tuple[float, float]  # the ratio in the early and the late half; NaN where nothing was spent
    thirds: tuple[float, float, float]
    size: float  # the largest difference between two thirds, in units of the ratio
    p: float | None  # of a difference as large as that by chance; None where not tested
    why: str


def stationarity(sums: Floats, *, length: int = 1, seed: int = SEED) -> Stationarity:
    """Judge the ratio of column 0 to column 1 of `sums` (a row per block of time, in order).

    `length` is how many neighbouring blocks stay together; blocks at the end that fill no run join the last one.
    """
    rows = np.asarray(sums, dtype=np.float64)
    runs = _runs(rows, length)
    thirds, halves = _parts(rows, 3), _parts(rows, 2)
    size = float(_spread(thirds))
    first, second, third = (float(part) for part in thirds)
    whole = float(_share(rows.sum(axis=0)))
    p = _p(runs, seed) if len(runs) >= ENOUGH_RUNS and np.isfinite(size) else None
    verdict, why = _verdict(size, whole, p, len(runs))
    return Stationarity(
        verdict=verdict,
        halves=(float(halves[0]), float(halves[1])),
        thirds=(first, second, third),
        size=size,
        p=p,
        why=why,
    )


def _verdict(
    size: float, whole: float, p: float | None, runs: int
) -> tuple[Literal["stationary", "drifting", "unknown"], str]:
    if p is None:
        return "unknown", f"Not tested: {runs} runs of blocks, and a test of thirds needs {ENOUGH_RUNS}."
    said = f"thirds of the log differ by up to {size:.2%} where the whole has {whole:.2%} (p = {p:.3f})"
    if p < SURE and size >= NOTABLE * abs(whole):
        return "drifting", f"Drifting: {said}; an interval from this log does not cover the next one."
    return "stationary", f"No drift found: {said}."


def _p(runs: Floats, seed: int) -> float:
    random = np.random.default_rng(seed)
    seen = float(_spread(_parts(runs, 3)))
    order = random.permuted(np.tile(np.arange(len(runs)), (SHUFFLES, 1)), axis=1)
    shuffled = runs[order]
    spreads = _spread(np.stack([_share(part.sum(axis=1)) for part in np.array_split(shuffled, 3, axis=1)], axis=-1))
    return float((1 + np.count_nonzero(spreads >= seen - 1e-12)) / (1 + SHUFFLES))


def _runs(rows: Floats, length: int) -> Floats:
    starts = np.arange(0, max(len(rows) // length, 1)) * length
    runs: Floats = np.add.reduceat(rows, starts, axis=0) if len(rows) else rows
    return runs


def _parts(rows: Floats, count: int) -> Floats:
    return np.array([float(_share(part.sum(axis=0))) for part in np.array_split(rows, count)])


def _spread(ratios: Floats) -> Floats:
    spread: Floats = np.max(ratios, axis=-1) - np.min(ratios, axis=-1)
    return spread
