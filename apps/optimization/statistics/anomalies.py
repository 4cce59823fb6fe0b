"""Steps of a seasonal series that stand out: a robust score within each season, with a floor in size and in share.

The median and the median absolute deviation (times 1.4826, the standard deviation of a normal) are moved little by the
very steps that are looked for. Source: Iglewicz and Hoaglin, How to Detect and Handle Outliers (1993), 3.5: flagged
above 3.5. The deviation has a floor, because three equal Mondays do not make the fourth one's cent an anomaly.
"""

import numpy as np
from numpy.typing import NDArray

from apps.optimization.statistics.bootstrap import Floats

SCORE = 3.5
TO_SIGMA = 1.4826


def unusual(
    series: Floats,
    seasons: NDArray[np.int64],
    *,
    minimum: float,
    share: float,
    floor: float = 0.1,
    score: float = SCORE,
) -> NDArray[np.bool_]:
    """Which steps are too high for their season.

    `minimum` is the smallest excess over the season's median that matters, `share` the smallest one as a share of that
    median, `floor` the least deviation as a share of the median. A season of fewer than three steps flags nothing.
    """
    flagged = np.zeros(len(series), dtype=np.bool_)
    for season in np.unique(seasons):
        of_it = seasons == season
        values = series[of_it]
        if len(values) < 3:
            continue
        middle = float(np.median(values))
        deviation = max(TO_SIGMA * float(np.median(np.abs(values - middle))), floor * middle)
        excess = values - middle
        flagged[of_it] = (excess >= minimum) & (excess >= share * middle) & (excess > score * deviation)
    return flagged
