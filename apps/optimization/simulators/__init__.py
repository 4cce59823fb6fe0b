"""Ways to save, one per file. A file that decorates a function with `@strategy` is found; nothing else changes."""

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules

from apps.errors import Invalid
from apps.optimization.calls import Calls
from apps.optimization.results import Strategy

Simulator = Callable[[Calls], Strategy]
_simulators: dict[str, Simulator] = {}


class UnknownStrategy(Invalid):
    """No simulator has this name."""

    code = "strategy.unknown"


def strategy(simulator: Simulator) -> Simulator:
    """Register `simulator` under its own name."""
    _simulators[simulator.__name__] = simulator
    return simulator


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
