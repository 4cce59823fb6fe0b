"""What people write in a terminal or a form, as the values of a question."""

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Protocol

from apps.optimization.options import ImpossibleOption
from apps.optimization.results import Result


class Together(Protocol):
    """A joint saving: amounts in dollars, as numbers or written."""

    @property
    def saving_usd(self) -> Decimal | str | None: ...
    @property
    def low(self) -> Decimal | str | None: ...
    @property
    def high(self) -> Decimal | str | None: ...
    @property
    def spent_usd(self) -> Decimal | str | None: ...
    @property
    def up_to(self) -> bool: ...


class Goal(Result):
    """Whether a share of the spend can be saved."""

    share: float  # that is wanted, 0-1
    saved_share: float | None  # of the joint saving; None where none is proven
    reached: bool | None  # None: the interval does not decide, or a ceiling takes part
    sentence: str


def goal(share: float, joint: Together | None) -> Goal:
    """A wished share beside the joint saving: reached where the lower end of its interval is, not where the upper end
    is below it, and undecided between them. A ceiling decides only where even it is too low."""
    if joint is None or joint.saving_usd is None or not joint.spent_usd:
        return Goal(share=share, saved_share=None, reached=None, sentence="Nothing that is proven comes closer to it.")
    spent = Decimal(joint.spent_usd)
    saved = float(Decimal(joint.saving_usd) / spent)
    low, high = (None if end is None else float(Decimal(end) / spent) for end in (joint.low, joint.high))
    if joint.up_to:
        reached = None if saved >= share else False
        said = f"All that is bounded would save at most {saved:.1%} together"
        sentence = (
            f"{said}, which is {'too little' if reached is False else 'enough only if the ceilings are reached'}."
        )
    else:
        reached = _decided(share, low, high)
        ends = "" if low is None or high is None else f" (95 % interval: {low:.1%} to {high:.1%})"
        sentence = f"What is proven saves {saved:.1%} together{ends}, which {_verdict(reached, bool(ends))}."
    return Goal(share=share, saved_share=saved, reached=reached, sentence=sentence)


def _decided(share: float, low: float | None, high: float | None) -> bool | None:
    if low is not None and low >= share:
        return True
    return False if high is not None and high < share else None


def _verdict(reached: bool | None, interval: bool) -> str:
    if reached is None:
        return "does not decide it" if interval else "does not decide it without an interval"
    return "reaches it" if reached else "does not reach it"


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
