"""What a way to save did since it is used, with its interval: what was paid is known, what would have been is not.

A way to save leaves less to be saved where it is used. If a share o of a feature's spend could be saved before, and S
was spent on it since, of which V could still be saved, then the same use would have cost (S - V) / (1 - o) without it;
what that is more than S is what it did. Features are measured one by one and added up, so that neither growth nor a
changed mix of features counts as failure; within a feature, the share that could be saved is taken to have stayed. A
feature of which nothing could be saved before adds nothing.

Two things are not known: o, of which the calls before are a sample; and how much of the very calls since could have
been saved, which differs from o of them as any sample does. With C = (S - V) / (1 - o), and B spent before, a cluster
of calls errs by e = (saved - o spent) / (1 - o). The first error is C / B times the sum of e over the clusters before;
the second has the variance of C / B such sums, since later clusters are taken to be as different as earlier ones. So
the interval of the first (a bootstrap) is stretched by the square root of 1 + B / C: it is one of a prediction.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from apps.optimization.statistics.bootstrap import (
    ENOUGH_CLUSTERS,
    Floats,
    Interval,
    cluster_interval,
    of_enough,
)
from apps.optimization.statistics.dependence import resembling

_SAVED, _SPENT = range(2)


@dataclass(frozen=True, kw_only=True)
class Realised:
    """What was not paid since, of summed columns: of each feature, what could be saved before, and was spent before."""

    paid: Floats  # since, for each feature
    left: Floats  # the part of it that could still be saved

    def __call__(self, sums: Floats) -> Floats:
        each = by_feature(sums)
        value: Floats = np.where(could(each), (self.paid - self.left) / _kept(each) - self.paid, 0).sum(axis=-1)
        return value

    def gradient(self, sums: Floats) -> Floats:
        """The derivative of the value by each column."""
        each = by_feature(sums)
        found, spent = np.zeros_like(each), np.where(could(each), each[..., _SPENT], 1)
        slope = np.where(could(each), (self.paid - self.left) / _kept(each) ** 2 / spent, 0)
        found[..., _SAVED] = slope
        found[..., _SPENT] = -slope * each[..., _SAVED] / spent
        gradient: Floats = found.reshape(np.shape(sums))
        return gradient

    def predicted(self, sums: Floats) -> float:
        """What would have been saved since, had all been done that could be done before."""
        each = by_feature(sums)
        without = np.where(could(each), (self.paid - self.left) / _kept(each), 0)
        return float((without * (1 - _kept(each))).sum())

    def interval(self, before: Floats, days: Floats, since: int) -> Interval:
        """Of what was not paid.

        `before` has a row for each cluster, `days` one for each day in order, of the calls before: saved and spent of
        each feature. `since` is the number of clusters since; of few of them, as of few that save, there is none.
        """
        value = cluster_interval(before, self)
        if since < ENOUGH_CLUSTERS:
            why = f"No interval: there are {since} clusters of calls since, and {ENOUGH_CLUSTERS} are needed."
            return replace(value, low=None, high=None, why=why)
        savers = int(np.count_nonzero(by_feature(before)[..., _SAVED].any(axis=-1)))
        wide = of_enough(resembling(value, days, before, self), savers)
        if wide.low is None or wide.high is None:
            return wide
        factor = self._of_prediction(before)
        return replace(
            wide, low=wide.value - factor * (wide.value - wide.low), high=wide.value + factor * (wide.high - wide.value)
        )

    def _of_prediction(self, before: Floats) -> float:
        """The error of the value by that part of it which is due to the calls before."""
        sums = before.sum(axis=0)
        each = by_feature(sums)
        known = by_feature(before * self.gradient(sums)).sum(axis=-1)
        ratio = np.where(could(each), (self.paid - self.left) / _kept(each) / np.maximum(each[..., _SPENT], 1), 0)
        unknown = np.divide(known, np.sqrt(ratio), out=np.zeros_like(known), where=ratio > 0)
        first, second = (float(np.square(part.sum(axis=-1)).sum()) for part in (known, unknown))
        return float(np.sqrt(1 + second / first)) if first > 0 else 1.0


def by_feature(sums: Floats) -> Floats:
    """Summed columns as (..., features, 2)."""
    return np.reshape(sums, (*np.shape(sums)[:-1], -1, 2))


def could(each: Floats) -> NDArray[np.bool_]:
    """Whether a part of a feature, and not all of it, could be saved before."""
    possible: NDArray[np.bool_] = (each[..., _SAVED] > 0) & (each[..., _SPENT] > each[..., _SAVED])
    return possible


def _kept(each: Floats) -> Floats:
    """The share that could not be saved before; 1 where the result is not used."""
    spent = np.where(could(each), each[..., _SPENT], 1)
    return np.where(could(each), 1 - each[..., _SAVED] / spent, 1)


def adopted(random: np.random.Generator, *, before: int, since: int, used: float) -> tuple[Realised, Floats, float]:
    """Made-up clusters of one feature, of which a share `used` saves since all it can: what is seen, and what is true.

    What a cluster costs is lognormal; of three in ten, thirty to seventy percent can be saved.
    """
    cost = random.lognormal(0, 1, size=before + since)
    can = (random.random(len(cost)) < 0.3) * random.uniform(0.3, 0.7, size=len(cost)) * cost
    uses = np.arange(len(cost)) >= before
    uses &= random.random(len(cost)) < used
    done, later = np.where(uses, can, 0), slice(before, None)
    paid, left = (cost - done)[later].sum(), (can - done)[later].sum()
    sums = np.column_stack([can, cost])[:before]
    return Realised(paid=np.array([paid]), left=np.array([left])), sums, float(done.sum())
