"""How long the answers of a feature may take, in words, and what follows from it."""

from apps.optimization.simulators.batch_eligible import BATCH_WINDOW


def no_such_feature(feature: str) -> str:
    """What is told of a wish about a feature that no call is of."""
    return f"No call is of feature {feature}, so what was said of it changes nothing."


def told_wait(feature: str, seconds: float) -> str:
    """Whether calls of a feature that may take `seconds` are batched.

    >>> told_wait("chat", 5)
    'chat may take 5 s, so its calls are left out of batches, which may take 24 hours.'
    >>> told_wait("chat", 0)
    'chat cannot wait, so its calls are left out of batches, which may take 24 hours.'
    """
    wait = f"{feature} may take {spelled_wait(round(1000 * seconds))}" if seconds else f"{feature} cannot wait"
    if seconds >= BATCH_WINDOW:
        return f"{wait}, so its calls are counted as able to go through a batch API."
    return f"{wait}, so its calls are left out of batches, which may take {spelled_wait(round(1000 * BATCH_WINDOW))}."


def spelled_wait(milliseconds: int) -> str:
    """A wait for reading.

    >>> spelled_wait(500), spelled_wait(2000), spelled_wait(1500), spelled_wait(3_600_000), spelled_wait(172_800_000)
    ('500 ms', '2 s', '1500 ms', '1 hour', '48 hours')
    """
    if milliseconds == 3_600_000:
        return "1 hour"
    for name, length in (("hours", 3_600_000), ("s", 1000)):
        if milliseconds >= length and milliseconds % length == 0:
            return f"{milliseconds // length} {name}"
    return f"{milliseconds} ms"
