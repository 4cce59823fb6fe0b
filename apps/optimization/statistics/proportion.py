"""How large a share can be at most, after so many trials."""

from math import inf, lgamma, log, log1p

import numpy as np

CONFIDENCE = 0.95  # one-sided


def at_most(events: int, trials: int, *, confidence: float = CONFIDENCE) -> float:
    """The upper end of the exact interval of a share: the largest at which `events` or fewer are not unlikely.

    Solves P(X <= events | trials, p) = 1 - confidence (Clopper and Pearson 1934); 1 where nothing was tried.

    Raises:
        ValueError: there are more events than trials, or fewer than none.

    >>> round(at_most(0, 59), 4), round(at_most(2, 100), 4), at_most(3, 3), at_most(0, 0)
    (0.0495, 0.0616, 1.0, 1.0)
    """
    if not 0 <= events <= trials:
        raise ValueError(f"{events} of {trials} is no share.")
    if events == trials:
        return 1.0
    counts = np.arange(events + 1)
    ways = np.array([lgamma(trials + 1) - lgamma(k + 1) - lgamma(trials - k + 1) for k in counts.tolist()])
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        chances = ways + counts * (log(middle) if middle else -inf) + (trials - counts) * log1p(-middle)
        low, high = (middle, high) if np.exp(chances).sum() > 1 - confidence else (low, middle)
    return high
