"""Scores that say which calls a cheaper model can answer, each from pairs that the scored call is not among."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from zlib import crc32

import numpy as np

from apps.optimization.quality.bounds import Floats, Ints

FOLDS = 5
BUCKETS = 1 << 14  # of the hashed words
ROUNDS = 150  # of gradient descent
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Texts as rows of hashed TF-IDF weights of unit length, kept sparse: one entry per text and bucket."""

    row: Ints
    bucket: Ints
    weight: Floats
    count: int  # texts

    def times(self, weights: Floats) -> Floats:
        """A number per text."""
        return np.asarray(
            np.bincount(self.row, weights=self.weight * weights[self.bucket], minlength=self.count), dtype=np.float64
        )

    def transposed_times(self, numbers: Floats) -> Floats:
        """A number per bucket."""
        return np.asarray(
            np.bincount(self.bucket, weights=self.weight * numbers[self.row], minlength=BUCKETS), dtype=np.float64
        )


def hashed(texts: Sequence[str]) -> Texts:
    """Words and pairs of neighbours, hashed (Weinberger et al. 2009), at (1 + ln tf) * (1 + ln((1 + n) / (1 + df)))."""
    found = [_buckets(text) for text in texts]
    row = np.repeat(np.arange(len(found)), [len(each) for each in found])
    keys, counts = np.unique(
        row * BUCKETS + np.fromiter((bucket for each in found for bucket in each), dtype=np.int64, count=len(row)),
        return_counts=True,
    )
    row, bucket = keys // BUCKETS, keys % BUCKETS
    rarity = np.log((1 + len(texts)) / (1 + np.bincount(bucket, minlength=BUCKETS))) + 1
    weight = (1 + np.log(counts)) * rarity[bucket]
    length = np.sqrt(np.bincount(row, weights=weight**2, minlength=len(texts)))
    return Texts(row=row, bucket=bucket, weight=weight / length[row], count=len(texts))


def _buckets(text: str) -> list[int]:
    words = _WORD.findall(text.lower())
    pairs = [f"{one} {other}" for one, other in pairwise(words)]
    return [crc32(token.encode()) % BUCKETS for token in (*words, *pairs)]


def folds_of(clusters: Ints, *, seed: int = 0) -> Ints:
    """A fold per call, 0 to FOLDS - 1; the calls of one cluster share theirs."""
    _, numbers = np.unique(clusters, return_inverse=True)
    order = np.random.default_rng(seed).permutation(int(numbers.max()) + 1 if len(numbers) else 0)
    return np.asarray(order[numbers] % FOLDS, dtype=np.int64)


def by_text(texts: Texts, good_enough: Floats, folds: Ints) -> Floats:
    """Per call the log-odds that the candidate does, from a logistic regression on the other folds."""
    scores = np.zeros(texts.count)
    for fold in np.unique(folds):
        weights, bias = _fit(texts, good_enough, folds != fold)
        scores = np.where(folds == fold, texts.times(weights) + bias, scores)
    return scores


def _fit(texts: Texts, target: Floats, used: np.ndarray) -> tuple[Floats, float]:
    """L2-regularized logistic regression (strength 1, as is usual) by accelerated gradient descent (Nesterov 1983)."""
    count = max(1, int(used.sum()))
    decay = 1 / count
    step = 1 / (0.25 * 2 + decay)  # 1 / Lipschitz constant: rows have length 1, and the bias adds 1
    weights, bias = np.zeros(BUCKETS), 0.0
    ahead, ahead_bias = weights, bias
    for turn in range(ROUNDS):
        wrong = np.where(used, 1 / (1 + np.exp(-(texts.times(ahead) + ahead_bias))) - target, 0.0) / count
        new = ahead - step * (texts.transposed_times(wrong) + decay * ahead)
        new_bias = ahead_bias - step * float(wrong.sum())
        momentum = turn / (turn + 3)
        ahead, ahead_bias = new + momentum * (new - weights), new_bias + momentum * (new_bias - bias)
        weights, bias = new, new_bias
    return weights, bias


def by_segment(segments: Ints, difference: Floats, folds: Ints) -> Floats:
    """Per call the mean difference of quality in its segment on the other folds, small segments drawn to the whole.

    The shrinkage is the empirical Bayes one for a mean: n / (n + k), k = variance within / variance between segments
    (Morris 1983), with the moments as estimates.
    """
    scores = np.zeros(len(segments))
    _, numbers = np.unique(segments, return_inverse=True)
    count = int(numbers.max()) + 1 if len(numbers) else 0
    for fold in np.unique(folds):
        used = folds != fold
        means = _shrunk(numbers[used], difference[used], count)
        scores = np.where(folds == fold, means[numbers], scores)
    return scores


def _shrunk(segments: Ints, values: Floats, count: int) -> Floats:
    if not len(values):
        return np.zeros(count)
    sizes = np.bincount(segments, minlength=count)
    whole = float(values.mean())
    means = np.where(sizes > 0, np.bincount(segments, weights=values, minlength=count) / np.maximum(sizes, 1), whole)
    within = float(((values - means[segments]) ** 2).sum()) / max(1, len(values) - count)
    between = float((sizes * (means - whole) ** 2).sum()) / len(values) - within * count / len(values)
    if between <= 0:
        return np.full(count, whole)
    return np.asarray(whole + (means - whole) * sizes / (sizes + within / between), dtype=np.float64)
