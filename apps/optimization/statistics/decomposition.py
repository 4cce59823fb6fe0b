"""Why spend differs between two periods: volume, mix, tokens per call and price, to the cent.

The additive logarithmic mean Divisia index, LMDI-I. A cell (a feature, a model, a kind of tokens) costs

    calls of the period * share of the calls * tokens per call * price of a token

and each factor's effect in the cell is L(after, before) * ln(factor after / factor before), with the logarithmic mean
L(a, b) = (a - b) / (ln a - ln b). The effects of a cell add up to its difference, and so do those of all cells.
Where a cell comes or goes, the limit is taken: the whole difference belongs to the first factor that is zero.

Source: Ang, "The LMDI approach to decomposition analysis: a practical guide", Energy Policy 33 (2005) 867-871; zeros:
Ang, Zhang and Choi, "Factorizing changes in energy and environmental indicators", Energy 23 (1998) 489-495.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Factor = Literal["volume", "mix", "tokens", "price"]
FACTORS: tuple[Factor, ...] = ("volume", "mix", "tokens", "price")


@dataclass(frozen=True, kw_only=True)
class Use:
    """What one group of calls used of one kind of tokens in one period; calls may be a mean over several periods."""

    calls: float  # of the group; the same on each of its kinds
    tokens: float
    cost: float


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A group of calls, and one kind of tokens in it."""

    group: tuple[str | None, ...]  # for example feature and model
    kind: str


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What one factor did to the spend of one cell."""

    factor: Factor
    cell: Cell
    amount: float  # in the unit of cost; positive is dearer


Period = Mapping[Cell, Use]


def decompose(before: Period, after: Period) -> tuple[Effect, ...]:
    """Every effect that is not zero, the largest first. They sum to the cost of `after` less that of `before`."""
    calls = _calls(before), _calls(after)
    effects = []
    for cell in {**before, **after}:
        chains = _factors(before.get(cell), calls[0]), _factors(after.get(cell), calls[1])
        for factor, amount in zip(FACTORS, _cell(*chains), strict=True):
            if amount:
                effects.append(Effect(factor=factor, cell=cell, amount=amount))
    return tuple(sorted(effects, key=lambda effect: -abs(effect.amount)))


def totals(effects: Sequence[Effect]) -> dict[Factor, float]:
    """The effects summed over cells, each of FACTORS named."""
    return {factor: math.fsum(e.amount for e in effects if e.factor == factor) for factor in FACTORS}


def contributors(effects: Sequence[Effect]) -> tuple[Effect, ...]:
    """One effect per factor and group, kinds kept apart for tokens and price only; the largest first."""
    summed: dict[tuple[Factor, Cell], float] = defaultdict(float)
    for effect in effects:
        whole = effect.factor in ("volume", "mix")
        group = () if effect.factor == "volume" else effect.cell.group
        summed[effect.factor, Cell(group=group, kind="" if whole else effect.cell.kind)] += effect.amount
    found = [Effect(factor=factor, cell=cell, amount=amount) for (factor, cell), amount in summed.items()]
    return tuple(sorted(found, key=lambda effect: -abs(effect.amount)))


def _calls(period: Period) -> float:
    return math.fsum({cell.group: use.calls for cell, use in period.items()}.values())


def _factors(use: Use | None, calls: float) -> tuple[float, ...]:
    """Calls, share, tokens per call, price; zero from the first that is nothing."""
    if use is None or use.calls <= 0:
        return calls, 0.0, 0.0, 0.0
    price = use.cost / use.tokens if use.tokens > 0 else 0.0
    return calls, use.calls / calls, use.tokens / use.calls, price


def _cell(before: tuple[float, ...], after: tuple[float, ...]) -> tuple[float, ...]:
    costs = math.prod(before), math.prod(after)
    effects = [0.0] * len(FACTORS)
    if 0.0 in costs:
        # The side without cost says in which factor it is nothing.
        empty = before if costs[0] == 0 else after
        effects[empty.index(0.0) if 0.0 in empty else -1] = costs[1] - costs[0]
        return tuple(effects)
    mean = logarithmic_mean(costs[1], costs[0])
    return tuple(mean * math.log(new / old) for old, new in zip(before, after, strict=True))


def logarithmic_mean(first: float, second: float) -> float:
    """(a - b) / (ln a - ln b), and a where both are the same; of positive numbers."""
    x = math.log(first / second)
    return second if x == 0 else second * math.expm1(x) / x
