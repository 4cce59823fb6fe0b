"""Non-inferiority: is the new quality at least a share of the old, with 95 % confidence, sessions taken as clusters?"""

from dataclasses import dataclass
from math import ceil, inf, sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from apps.optimization.statistics.bootstrap import students_t

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
CONFIDENCE = 0.95  # one-sided
POWER = 0.8


@dataclass(frozen=True, kw_only=True)
class Bound:
    """The mean of new - floor * old over pairs, and what it is at least, with the confidence that was asked for."""

    mean: float
    lower: float  # -inf where there are too few clusters to say
    clusters: int

    @property
    def holds(self) -> bool:
        return self.lower >= 0


def non_inferior(new: Floats, old: Floats, clusters: Ints, *, floor: float, confidence: float = CONFIDENCE) -> Bound:
    """The lower bound of mean(new - floor * old), qualities 0-1, `clusters` numbered from 0.

    The standard error is the cluster-robust one of a mean (Liang and Zeger 1986; Cameron and Miller 2015, section II)
    with Student's t. One more cluster of the usual size, in which the new model fails where the old one does not, keeps
    a sample without any difference from proving too much: with none seen, about 3 / (1 - floor) clusters are needed,
    which is the rule of three (Hanley and Lippman-Hand 1983).
    """
    _, numbers = np.unique(clusters, return_inverse=True)
    count = int(numbers.max()) + 1 if len(numbers) else 0
    if count < 2:
        return Bound(mean=float(np.mean(new - floor * old)) if len(new) else 0.0, lower=-inf, clusters=count)
    difference = new - floor * old
    size = len(difference) / count
    sums = np.append(np.bincount(numbers, weights=difference), -floor * size)
    sizes = np.append(np.bincount(numbers), size)
    pairs = sizes.sum()
    mean = float(sums.sum() / pairs)
    residuals = sums - mean * sizes
    error = sqrt((count + 1) / count * float(residuals @ residuals)) / pairs
    lower = mean - students_t(confidence, freedom=count) * error
    return Bound(mean=float(difference.mean()), lower=float(lower), clusters=count)


def required_pairs(*, variance: float, margin: float) -> int:
    """Pairs that show non-inferiority with power 0.8 where both models are equally good.

    n = (z_0.95 + z_0.8)^2 * var(new - old) / margin^2 (Chow, Shao, Wang: Sample Size Calculations, section 3.1).

    >>> required_pairs(variance=0.31, margin=0.05), required_pairs(variance=0.31, margin=0.02)
    (767, 4792)
    """
    z = NormalDist().inv_cdf(CONFIDENCE) + NormalDist().inv_cdf(POWER)
    return ceil(z**2 * variance / margin**2)
