"""Ways to save, one per file. A file that decorates a function with `@strategy` is found; nothing else changes.

Each acts at one stage of a call's life. What it changes it leaves in the temporary table `treatment_<name>`, so that
the joint saving can apply several at once: a row per changed call, with `call` and the columns of its stage in
`coalitions.TREATMENTS`.
"""

from collections.abc import Callable
from datetime import date, datetime
from functools import wraps
from importlib import import_module
from inspect import signature
from pkgutil import iter_modules
from typing import Protocol, TypeVar

from apps.errors import Invalid
from apps.llm.pricing import Stage
from apps.optimization.calls import Calls
from apps.optimization.coalitions import Replay
from apps.optimization.options import DEFAULTS as DEFAULTS
from apps.optimization.options import Options as Options
from apps.optimization.options import free_sql as free_sql
from apps.optimization.options import taught_before as taught_before
from apps.optimization.results import Strategy


class Simulator(Protocol):
    """What one way to save would have saved on these calls, under these options."""

    def __call__(self, calls: Calls, options: Options = DEFAULTS, /) -> Strategy: ...


# The options under which a strategy may save more than it was found to under those given; None: there are none.
Wider = Callable[[Strategy, Options], Options | None]
Written = TypeVar("Written", bound=Callable[..., Strategy])  # takes the calls and, if it has choices, the options
_simulators: dict[str, Simulator] = {}
_stages: dict[str, Stage] = {}
_replays: dict[str, Replay] = {}
_wider: dict[str, Wider] = {}


class UnknownStrategy(Invalid):
    """No simulator has this name."""

    code = "strategy.unknown"


def strategy(*, stage: Stage, replay: Replay | None = None, wider: Wider | None = None) -> Callable[[Written], Written]:
    """Register a simulator under its own name, at `stage`; for the prefix cache, with its `replay`; with `wider` where
    its owner could allow more. One without choices takes the calls alone."""

    def register(written: Written) -> Written:
        name = written.__name__
        _simulators[name], _stages[name] = _simulator(written), stage
        if replay:
            _replays[name] = replay
        if wider:
            _wider[name] = wider
        return written

    return register


def _simulator(written: Callable[..., Strategy]) -> Simulator:
    choosy = len(signature(written).parameters) > 1

    @wraps(written)
    def simulator(calls: Calls, options: Options = DEFAULTS, /) -> Strategy:
        return written(calls, options) if choosy else written(calls)

    return simulator


def replay_of(name: str) -> Replay | None:
    """How the prefix cache of the strategy `name` is replayed behind other stages; None where it is always the same."""
    return _replays.get(name)


def wider_of(found: Strategy, options: Options) -> Options | None:
    """What the owner would have to allow beyond `options` for a strategy to save more than was `found`; None where
    nothing would help."""
    asked = _wider.get(found.name)
    return asked and asked(found, options)


def learnt_until(found: Strategy) -> date | None:
    """The last day (UTC) of the calls that a strategy only learned from; None where it learned nothing first."""
    counted = found.detail.get("counted_since")
    return None if counted is None else datetime.fromisoformat(counted).date()


def has_rules(name: str) -> bool:
    """Whether the owner could allow the strategy `name` more, and so what was allowed is a part of what it found."""
    return name in _wider


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
