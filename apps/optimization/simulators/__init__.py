"""Ways to save, one per file. A file that decorates a function with `@strategy` is found; nothing else changes.

Each acts at one stage of a call's life. What it changes it leaves in the temporary table `treatment_<name>`, so that
the joint saving can apply several at once: a row per changed call, with `call` and the columns of its stage in
`coalitions.TREATMENTS`.
"""

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules

from apps.errors import Invalid
from apps.llm.pricing import Stage
from apps.optimization.calls import Calls
from apps.optimization.coalitions import Replay
from apps.optimization.results import Strategy

Simulator = Callable[[Calls], Strategy]
_simulators: dict[str, Simulator] = {}
_stages: dict[str, Stage] = {}
_replays: dict[str, Replay] = {}


class UnknownStrategy(Invalid):
    """No simulator has this name."""

    code = "strategy.unknown"


def strategy(*, stage: Stage, replay: Replay | None = None) -> Callable[[Simulator], Simulator]:
    """Register a simulator under its own name, as one that acts at `stage`; for the prefix cache, with its `replay`."""

    def register(simulator: Simulator) -> Simulator:
        if replay:
            _replays[simulator.__name__] = replay
        _simulators[simulator.__name__] = simulator
        _stages[simulator.__name__] = stage
        return simulator

    return register


def replay_of(name: str) -> Replay | None:
    """How the prefix cache of the strategy `name` is replayed behind other stages; None where it is always the same."""
    return _replays.get(name)


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


def simulate(calls: Calls, name: str) -> Strategy:
    """What the strategy `name` would have saved.

    Raises:
        UnknownStrategy: there is none of that name.
    """
    found = known()
    if name not in found:
        raise UnknownStrategy(f"No strategy is named {name!r}; known: {', '.join(found)}.")
    return found[name](calls)
