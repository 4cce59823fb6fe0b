"""What it does to an interval that days resemble those before them.

A bootstrap over clusters takes them for independent. Where a level lasts (a launch, another prompt, a busy week),
neighbouring days err alike, and so do their sessions; then the error of a sum over days is larger than that over
clusters, by what a day's clusters have in common and by how long it lasts. Days are modelled as autoregressive of order
one: the variance of their sum is (1 + r) / (1 - r) times that of independent ones, with the autocorrelation r corrected
for its bias in short series. Weekdays differ every week alike, which is no resemblance, so their means are taken out.

Sources: Bayley and Hammersley, Journal of the Royal Statistical Society, Supplement 8 (1946), the variance; Marriott
and Pope, Biometrika 41 (1954), and Kendall, ibid., the bias.
"""

from dataclasses import replace

import numpy as np

from apps.optimization.statistics.bootstrap import Floats, Interval, Statistic

ENOUGH_DAYS = 14
WEEK = 7
SURE = 1.645  # standard errors: one-sided 95 %, beyond which a resemblance is not taken for luck
MOST = 0.97  # autocorrelation; of a longer memory a log of months shows too little


def resembling(
    interval: Interval, days: Floats, clusters: Floats, statistic: Statistic, *, part: float = 1.0
) -> Interval:
    """The interval as wide as it is where `days` (rows, in order) resemble each other more than `clusters` can tell."""
    factor = widening(days, clusters, statistic, part=part)
    if interval.low is None or interval.high is None or factor == 1:
        return interval
    said = f"Days resemble those before them, so the interval is {factor:.1f} times as wide as it would be else."
    return replace(
        interval,
        low=interval.value - factor * (interval.value - interval.low),
        high=interval.value + factor * (interval.high - interval.value),
        why=" ".join(filter(None, (interval.why, said))),
    )


def widening(days: Floats, clusters: Floats, statistic: Statistic, *, part: float = 1.0) -> float:
    """The standard error of `statistic` over days by that over clusters; 1 where it is not larger, or by luck.

    What `statistic` tells must not depend on the amount of calls, only on what they are like. Days may be a `part`
    (0-1) of what the clusters spent, and then err as a part does.
    """
    if len(days) < ENOUGH_DAYS:
        return 1.0
    gradient = statistic.gradient(days.sum(axis=0))
    away, count = _without_weekdays(days @ gradient), len(days)
    together, apart = float(away @ away), float(np.square(clusters @ gradient).sum())
    if not (together > 0 and apart > 0):
        return 1.0
    alike = float(away[1:] @ away[:-1]) / together
    lasting = alike > SURE / np.sqrt(count)
    spread = together / apart / part * count / (count - (WEEK if _has_weeks(days) else 1))
    if not lasting and spread <= 1 + SURE * np.sqrt(2 / count):
        return 1.0
    r = min(MOST, alike + (1 + 3 * alike) / count) if lasting else 0.0
    return max(1.0, float(np.sqrt(spread * (1 + r) / (1 - r))))


def _without_weekdays(values: Floats) -> Floats:
    """Values less the mean of their weekday, where there are three of each."""
    if not _has_weeks(values):
        return values
    weekday = np.arange(len(values)) % WEEK
    means = np.bincount(weekday, values) / np.bincount(weekday)
    rest: Floats = values - means[weekday]
    return rest


def _has_weeks(rows: Floats) -> bool:
    return len(rows) >= 3 * WEEK
