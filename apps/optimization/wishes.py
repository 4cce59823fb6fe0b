"""What people write in a terminal or a form, as the values of a question."""

import re
from collections.abc import Iterable
from decimal import Decimal

from apps.optimization.options import ImpossibleOption
from apps.optimization.results import Joint, Result


class Goal(Result):
    """Whether a share of the spend can be saved."""

    share: float  # that is wanted, 0-1
    saved_share: float | None  # of the joint saving; None where none is proven
    reached: bool | None  # None: the interval does not decide, or a ceiling takes part
    sentence: str


def goal(share: float, joint: Joint | None) -> Goal:
    """A wished share beside the joint saving and its interval."""
    if joint is None or joint.saving_usd is None or not joint.spent_usd:
        return Goal(share=share, saved_share=None, reached=None, sentence="Unknown: no saving is proven.")
    saved = float(joint.saving_usd / joint.spent_usd)
    low, high = (None if end is None else float(end / joint.spent_usd) for end in (joint.low, joint.high))
    reached = _decided(share, low, high) if not joint.up_to else (None if saved >= share else False)
    words = {True: "reached", False: "not reached", None: "not decided by the interval"}[reached]
    if joint.up_to and reached is None:
        words = "perhaps: a ceiling takes part"
    return Goal(share=share, saved_share=saved, reached=reached, sentence=f"{words}; {saved:.1%} would be saved.")


def _decided(share: float, low: float | None, high: float | None) -> bool | None:
    if low is not None and low >= share:
        return True
    return False if high is not None and high < share else None


def share_from(text: str, name: str) -> float:
    """A share as in 20% or 0.2.

    Raises:
        ImpossibleOption: it is neither; a number above 1 needs its %.

    >>> share_from("20 %", "goal"), share_from("0.2", "goal"), share_from("-10%", "grow")
    (0.2, 0.2, -0.1)
    """
    written = re.fullmatch(r"\s*([+-]?\d+(?:\.\d+)?)\s*(%?)\s*", text)
    if not written or (not written[2] and abs(Decimal(written[1])) > 1):
        raise ImpossibleOption(f"{name}: {text!r} is no share. Write it as 20% or 0.2.")
    return float(Decimal(written[1]) / 100 if written[2] else Decimal(written[1]))


def times_from(pairs: Iterable[str], name: str) -> dict[str, float]:
    """Feature -> seconds, written in milliseconds as in chat=500.

    Raises:
        ImpossibleOption: one is not of that form.

    >>> times_from(["chat=500", "a=b=86400000"], "may-wait")
    {'chat': 0.5, 'a=b': 86400.0}
    """
    times = {}
    for pair in pairs:
        feature, sign, wait = pair.rpartition("=")
        if not (feature.strip() and sign and re.fullmatch(r"\s*\d+(\.\d+)?\s*(ms)?\s*", wait)):
            raise ImpossibleOption(f"{name}: {pair!r} is no time of a feature. Write FEATURE=MS, for example chat=500.")
        times[feature.strip()] = float(Decimal(wait.strip().removesuffix("ms").strip()) / 1000)
    return times
