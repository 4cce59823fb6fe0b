"""How sure a recommendation is: a prior from how complete the data is, recalibrated by what came of earlier ones."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from apps.optimization.results import State

ENOUGH = 50  # outcomes before the prior gives way to the record


def prior(score: int, state: State) -> float:
    """Confidence, 0-1, before any outcome is known, from a sufficiency score of 0-100.

    0.85 + 0.15 c for sufficient or optimal data, 0.50 + 0.35 c for minimal, 0.5 c for insufficient; c = score / 100.
    The weights are a convention and not measured, which is why it is shown as "prior, uncalibrated".

    >>> prior(100, "optimal"), prior(80, "sufficient"), prior(40, "minimal"), prior(20, "insufficient")
    (1.0, 0.97, 0.64, 0.1)
    """
    complete = score / 100
    if state in ("sufficient", "optimal"):
        return round(0.85 + 0.15 * complete, 4)
    if state == "minimal":
        return round(0.50 + 0.35 * complete, 4)
    return round(0.5 * complete, 4)


def calibrated(stated: float, record: Sequence[tuple[float, bool]]) -> float | None:
    """What a stated confidence turned out to be worth; None below ENOUGH outcomes.

    `record` holds (confidence stated, whether the saving came true). Isotonic regression by pool-adjacent-violators
    (Ayer et al. 1955; Zadrozny and Elkan 2002 for calibration): the share that came true, made to rise with what was
    stated, read at `stated` by the step at or below it (the lowest step below them all).
    """
    if len(record) < ENOUGH:
        return None
    levels, values = _isotonic(record)
    place = int(np.searchsorted(levels, stated, side="right")) - 1
    return round(float(values[max(place, 0)]), 4)


def _isotonic(record: Sequence[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    """The lowest stated confidence and the share that came true of each pooled group, both rising."""
    groups: list[list[float]] = []  # lowest stated, number that came true, number
    for stated, same in groupby(sorted(record), key=lambda outcome: outcome[0]):
        came_true = [held for _, held in same]
        groups.append([stated, float(sum(came_true)), float(len(came_true))])
        while len(groups) > 1 and groups[-2][1] * groups[-1][2] >= groups[-1][1] * groups[-2][2]:
            _, more_held, more = groups.pop()
            groups[-1][1] += more_held
            groups[-1][2] += more
    return np.array([group[0] for group in groups]), np.array([group[1] / group[2] for group in groups])
