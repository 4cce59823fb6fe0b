"""What the owner of the calls allows and asks of every way to save."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from math import inf

from apps.errors import Invalid
from apps.optimization.duck import quoted


class ImpossibleOption(Invalid):
    """An option has a value that means nothing."""

    code = "strategy.impossible_option"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the owner of the calls allows and asks; what is not said changes nothing.

    Raises:
        ImpossibleOption: a share is not one, or a time or an amount is negative.
    """

    candidates: tuple[str, ...] | None = None  # models that may be asked instead; None: any that is widely offered
    quality_floor: float = 0.95  # share of today's quality that must be kept, 0-1
    waits: Mapping[str, float] = field(default_factory=dict)  # feature -> seconds that its answers may take
    keep: tuple[str, ...] = ()  # features that nothing may touch
    router_usd: Decimal = Decimal(0)  # what one decision of a router costs; one of our own computes without a model
    trimmed: float = 0.1  # share of the history that trimming takes away, 0-1
    output_percentile: float = 0.95  # of a feature's outputs that a cap leaves whole, 0-1
    answers_kept: float | None = 3600.0  # seconds that a cache may keep an answer; None: for good
    false_hits: float = 0.05  # share of a semantic cache's hits that may be answered otherwise than they were, 0-1
    answers_shared: bool | None = None  # one user may get the answer that another one was given; None: nobody has said
    learn_before: datetime | None = (
        None  # what is learnt, is learnt on the first half of the calls before; None: of all
    )

    def __post_init__(self) -> None:
        for name in ("quality_floor", "trimmed", "output_percentile", "false_hits"):
            if not 0 <= getattr(self, name) <= 1:
                raise ImpossibleOption(f"{name} is a share between 0 and 1; got {getattr(self, name)}.")
        if any(not seconds >= 0 for seconds in self.waits.values()):
            raise ImpossibleOption("A feature can wait for 0 seconds or more, never for less.")
        if self.answers_kept is not None and not self.answers_kept >= 0:
            raise ImpossibleOption(f"Answers are kept for 0 seconds or more; got {self.answers_kept}.")
        if not self.router_usd >= 0:
            raise ImpossibleOption(f"router_usd is an amount from 0 up; got {self.router_usd}.")


DEFAULTS = Options()


def taught_before(options: Options) -> float:
    """The end of the calls that may teach a way to save, in seconds since 1970."""
    return inf if options.learn_before is None else options.learn_before.timestamp()


def free_sql(options: Options) -> str:
    """The SQL condition under which a call may be touched at all.

    >>> free_sql(Options(keep=("legal", "it's")))
    "coalesce(feature NOT IN ('legal', 'it''s'), true)"
    """
    if not options.keep:
        return "true"
    return f"coalesce(feature NOT IN ({', '.join(map(quoted, options.keep))}), true)"
