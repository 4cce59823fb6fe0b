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
