"""What changed between two periods, or two datasets: spend taken apart into volume, mix, tokens per call and price."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from apps.llm.catalogue import Catalogue
from apps.optimization.calls import Calls
from apps.optimization.results import Changes, Contribution, in_dollars
from apps.optimization.statistics.decomposition import Cell, Effect, Period, Use, contributors, decompose, totals

SHOWN = 10
GROUP = "feature, model, provider"
KINDS = ("input", "cached_read", "cached_write", "output")


@dataclass(frozen=True, kw_only=True)
class Span:
    """From a moment until another, which is no part of it; both aware."""

    start: datetime
    end: datetime


def sums(weight: str = "1") -> str:
    """The columns after GROUP that `period` takes, each call counted `weight` times (an SQL expression)."""
    fields = ("input_tokens", "cached_read_tokens", "cached_write_tokens", "output_tokens", "cost_pico")
    return ", ".join((f"sum({weight})::DOUBLE", *(f"sum({n} * {weight})::DOUBLE" for n in fields), "max(price_moment)"))


def changes(calls: Calls, before: Span, after: Span) -> Changes:
    """Why `after` cost what `before` did not, over billed calls with a known price. One pass over each."""
    return compare(used(calls, before), used(calls, after))


def used(calls: Calls, span: Span | None = None) -> Period:
    """What was used in `span` (else in the whole dataset): the half of a comparison, also between two datasets."""
    limits = (span.start, span.end) if span else (None, None)
    rows = calls.rows(
        f"""SELECT {GROUP}, {sums()} FROM calls
            WHERE billed AND cost_pico IS NOT NULL
              AND ($1 IS NULL OR started_at >= $1) AND ($2 IS NULL OR started_at < $2) GROUP BY ALL""",  # noqa: S608
        [None if moment is None else moment.astimezone(UTC).replace(tzinfo=None) for moment in limits],
    )
    return period(rows, calls.catalogue)


def period(rows: Iterable[tuple[Any, ...]], catalogue: Catalogue) -> Period:
    """Cells from rows of GROUP and `sums`.

    The cost of a group is split over its kinds of tokens as their list prices have it, so that batch and tier discounts
    become part of every kind's price. A group whose prices are unknown today keeps its cost on one kind, `any`.
    """
    cells = {}
    for feature, model, provider, count, whole, read, written, output, cost, moment in rows:
        read, written = read or 0.0, written or 0.0
        tokens = (max((whole or 0.0) - read - written, 0.0), read, written, output or 0.0)
        group = (feature, model, provider)
        parts = _list_costs(tokens, catalogue, model, provider, moment)
        total = sum(parts)
        split = (
            zip(KINDS, tokens, (cost * part / total for part in parts), strict=True)
            if total > 0
            else (("any", sum(tokens), cost),)
        )
        for kind, number, amount in split:
            cells[Cell(group=group, kind=kind)] = Use(calls=count, tokens=number, cost=amount)
    return cells


def compare(before: Period, after: Period) -> Changes:
    """The difference between two periods in dollars, by factor and by contributor."""
    effects = decompose(before, after)
    largest = [_contribution(effect) for effect in contributors(effects)[:SHOWN]]
    spent = [sum(use.cost for use in each.values()) for each in (before, after)]
    return Changes(
        before_usd=_usd(spent[0]),
        after_usd=_usd(spent[1]),
        change_usd=_usd(spent[1] - spent[0]),
        factors={factor: _usd(amount) for factor, amount in totals(effects).items()},
        contributions=tuple(largest),
        cause=_cause(contributors(effects), spent[1] - spent[0]),
    )


def _list_costs(
    tokens: tuple[float, ...], catalogue: Catalogue, model: str | None, provider: str | None, moment: datetime | None
) -> tuple[float, ...]:
    at = moment.replace(tzinfo=UTC) if moment else None
    rates = catalogue.rates(model=model, provider=provider or "", at=at) if model and at else None
    if rates is None:
        return (0.0,) * len(KINDS)
    read = rates.input if rates.cached_read is None else rates.cached_read
    written = rates.input if rates.cached_write is None else rates.cached_write
    return tuple(n * float(rate) for n, rate in zip(tokens, (rates.input, read, written, rates.output), strict=True))


def _contribution(effect: Effect) -> Contribution:
    feature, model, provider = effect.cell.group or (None, None, None)
    return Contribution(
        factor=effect.factor,
        usd=_usd(effect.amount),
        feature=feature,
        model=model,
        provider=provider,
        tokens=effect.cell.kind or None,
    )


def _cause(effects: tuple[Effect, ...], change: float) -> str | None:
    """The largest contributor that pushes the way spend went."""
    pushing = [effect for effect in effects if effect.amount * change > 0]
    if not pushing:
        return None
    first = _contribution(pushing[0])
    who = ", ".join(filter(None, (first.feature, first.model)))
    what = {
        "volume": "the number of calls",
        "mix": f"a {'larger' if first.usd > 0 else 'smaller'} share of calls of {who}",
        "tokens": f"{first.tokens} tokens per call of {who}",
        "price": f"the price paid per {first.tokens} token of {who}",
    }[first.factor]
    return f"{what[0].upper()}{what[1:]}: {first.usd:+.2f} of {_usd(change):+.2f} dollars."


def _usd(pico: float) -> Decimal:
    return in_dollars(round(pico)) or Decimal(0)
