"""Ways to save, one per file. A file that decorates a function with `@strategy` is found; nothing else changes.

Each acts at one stage of a call's life. What it changes it leaves in the temporary table `treatment_<name>`, so that
the joint saving can apply several at once: a row per changed call, with the column `call` and those of TREATMENTS.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import wraps
from importlib import import_module
from inspect import signature
from pkgutil import iter_modules
from typing import Literal, Protocol, TypeVar

from apps.errors import Invalid
from apps.optimization.calls import Calls
from apps.optimization.duck import quoted
from apps.optimization.results import Strategy


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

    def __post_init__(self) -> None:
        for name in ("quality_floor", "trimmed", "output_percentile"):
            if not 0 <= getattr(self, name) <= 1:
                raise ImpossibleOption(f"{name} is a share between 0 and 1; got {getattr(self, name)}.")
        if any(not seconds >= 0 for seconds in self.waits.values()):
            raise ImpossibleOption("A feature can wait for 0 seconds or more, never for less.")
        if not self.router_usd >= 0:
            raise ImpossibleOption(f"router_usd is an amount from 0 up; got {self.router_usd}.")


DEFAULTS = Options()


class Simulator(Protocol):
    """What one way to save would have saved on these calls, under these options."""

    def __call__(self, calls: Calls, options: Options = DEFAULTS, /) -> Strategy: ...


Written = TypeVar("Written", bound=Callable[..., Strategy])  # takes the calls and, if it has choices, the options
# In causal order: what an earlier stage takes away, a later one cannot save again.
Stage = Literal["drop", "answer", "route", "trim", "prefix", "batch"]
TREATMENTS: dict[Stage, dict[str, str]] = {
    "drop": {},  # the call would not have been made
    "answer": {},  # a cache of answers would have answered it
    "route": {"model": "VARCHAR", "provider": "VARCHAR"},  # who would have been asked; provider as calls name it
    "trim": {"less_input": "BIGINT", "less_output": "BIGINT"},  # tokens it would have had less
    "prefix": {"cached_read_tokens": "BIGINT", "cached_write_tokens": "BIGINT"},  # instead of those it had
    "batch": {},  # it would have gone through the batch API
}
_simulators: dict[str, Simulator] = {}
_stages: dict[str, Stage] = {}


class UnknownStrategy(Invalid):
    """No simulator has this name."""

    code = "strategy.unknown"


class ImpossibleOption(Invalid):
    """An option has a value that means nothing."""

    code = "strategy.impossible_option"


def strategy(*, stage: Stage) -> Callable[[Written], Written]:
    """Register a simulator under its own name, at `stage`. One without choices takes the calls alone."""

    def register(written: Written) -> Written:
        name = written.__name__
        _simulators[name], _stages[name] = _simulator(written), stage
        return written

    return register


def _simulator(written: Callable[..., Strategy]) -> Simulator:
    choosy = len(signature(written).parameters) > 1

    @wraps(written)
    def simulator(calls: Calls, options: Options = DEFAULTS, /) -> Strategy:
        return written(calls, options) if choosy else written(calls)

    return simulator


def free_sql(options: Options) -> str:
    """The SQL condition under which a call may be touched at all.

    >>> free_sql(Options(keep=("legal", "it's")))
    "coalesce(feature NOT IN ('legal', 'it''s'), true)"
    """
    if not options.keep:
        return "true"
    return f"coalesce(feature NOT IN ({', '.join(map(quoted, options.keep))}), true)"


def stage_of(name: str) -> Stage:
    """The stage at which the strategy `name` acts."""
    return _stages[name]


def priceless(unpriced: int, eligible: int, what: str) -> str | None:
    """What to say of the eligible calls without a known price; None if each has one.

    >>> priceless(0, 5, "repeats"), priceless(2, 5, "repeats")
    (None, 'Of 5 repeats, 2 have no known price and are not in the sum.')
    >>> priceless(3, 3, "repeats")
    'None of the 3 repeats has a known price, so what they would save is unknown.'
    """
    if not unpriced:
        return None
    if unpriced == eligible:
        return f"None of the {eligible:,} {what} has a known price, so what they would save is unknown."
    left_out = "has no known price and is" if unpriced == 1 else "have no known price and are"
    return f"Of {eligible:,} {what}, {unpriced:,} {left_out} not in the sum."


def known() -> dict[str, Simulator]:
    """Name -> simulator, by name."""
    for module in iter_modules(__path__, f"{__name__}."):
        import_module(module.name)
    return dict(sorted(_simulators.items()))


def simulate(calls: Calls, name: str, options: Options = DEFAULTS) -> Strategy:
    """What the strategy `name` would have saved under `options`.

    Raises:
        UnknownStrategy: there is none of that name.
    """
    found = known()
    if name not in found:
        raise UnknownStrategy(f"No strategy is named {name!r}; known: {', '.join(found)}.")
    return found[name](calls, options)
