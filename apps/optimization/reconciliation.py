"""Calls beside a bill: what of the bill the calls explain, and why the rest differs.

Every difference has an amount, and they add up: what was billed is what the calls cost plus all differences. What no
rule explains is called unexplained. The order of the rules is the order in which a bill is taken apart: charges that
are no tokens, days and models that only one side has, then what is left on days and models that both have.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from decimal import Decimal
from typing import Literal, TypeVar

from apps.errors import NetraError
from apps.llm.amounts import spell_dollars
from apps.optimization.bills import TOKENS, KeptBill, Sum, sums_of
from apps.optimization.calls import Calls
from apps.optimization.results import Dollars, Result

Unit = Literal["usd", "tokens"]
Cause = Literal[
    "incomplete_bill",
    "not_tokens",
    "outside_days",
    "days_not_billed",
    "undated_calls",
    "unknown_models",
    "models_not_billed",
    "unpriced_calls",
    "rates",
    "sampling",
    "time_zone",
    "rounding",
    "unexplained",
]
AGREES = Decimal("0.01")  # share by which two sums may differ and still be called equal
CONSTANT = Decimal("0.05")  # share by which the ratios of single days may differ from their mean
MISSING = Decimal("0.05")  # share of a bill that must be missing before a log is called sampled
ROUNDED = Decimal("0.001")  # share of a bill that rounding may take
FEW_DAYS = 3  # below that, no ratio is called constant
SHOWN = 5  # names in a sentence, rows that could not be read


class CannotReconcile(NetraError):
    """The two have no days to be compared by."""

    code = "reconciliation.no_days"
    status = 422


class Difference(Result):
    """A part of the bill that the calls do not explain, or of the calls that the bill does not hold."""

    cause: Cause
    amount: Dollars  # billed minus captured, in the unit of the reconciliation
    sentence: str


class Compared(Result):
    """One day, or one model."""

    key: str | None  # None: the bill does not say
    billed: Dollars  # token charges
    captured: Dollars
    rate: float | None  # captured / billed; None where nothing was billed


class RejectedRow(Result):
    """A row of the bill that could not be read."""

    line: int  # of the file; of JSON pages the number of the result, from 1
    column: str | None  # as the file calls it; in JSON its path
    reason: str


class Reconciliation(Result):
    """What of a bill the calls explain."""

    unit: Unit  # tokens where the bill counts and does not charge
    billed: Dollars  # everything, in dollars or tokens
    captured: Dollars  # all calls
    rate: float | None  # captured / billed token charges, on days of the log and models that both name
    by_day: tuple[Compared, ...]
    by_model: tuple[Compared, ...]
    differences: tuple[Difference, ...]  # billed = captured + the sum of their amounts
    other_currencies: dict[str, Dollars]  # charges in them, which are added to nothing
    rejected_rows: int  # of the bill, that could not be read
    rejects: tuple[RejectedRow, ...]  # the first of them
    assumptions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Captured:
    """Billed calls of one day and model."""

    day: date | None
    model: str | None
    calls: int
    tokens: int
    usd: Decimal  # of those with a known price
    unpriced: int  # calls


def reconcile(calls: Calls, bill: KeptBill) -> Reconciliation:
    """Lay the calls of a dataset beside a kept bill; what its import could not read is told beside.

    Raises:
        CannotReconcile: no call has a time.
    """
    found = compared(captured_in(calls), sums_of(bill.charges), lacks=bill.lacks)
    return found.model_copy(
        update={
            "assumptions": (*found.assumptions, *bill.notes),
            "rejected_rows": bill.rejected,
            "rejects": tuple(RejectedRow(**asdict(reject)) for reject in bill.rejects[:SHOWN]),
        }
    )


def captured_in(calls: Calls) -> tuple[Captured, ...]:
    """What the billed calls took and cost by UTC day and model."""
    found = calls.rows(
        """SELECT started_at::DATE, model, count(*), sum(input_tokens + output_tokens)::BIGINT,
                  coalesce(sum(cost_pico), 0)::DECIMAL(38,0), count(*) FILTER (cost_pico IS NULL)
           FROM calls WHERE billed GROUP BY ALL ORDER BY ALL"""
    )
    return tuple(
        Captured(day=day, model=model, calls=count, tokens=tokens or 0, usd=pico.scaleb(-12), unpriced=unpriced)
        for day, model, count, tokens, pico, unpriced in found
    )


Key = tuple[date, str | None]
G = TypeVar("G")


@dataclass
class _Cell:
    """What both sides say about one day and model, in the unit of the comparison; tokens apart, to tell rates."""

    billed: Decimal = Decimal(0)
    captured: Decimal = Decimal(0)
    billed_tokens: int = 0
    captured_tokens: int = 0
    unpriced: int = 0
    is_billed: bool = False
    is_captured: bool = False

    @property
    def gap(self) -> Decimal:
        return self.billed - self.captured


@dataclass
class _Sides:
    """Both sides under comparison; what a rule explains leaves `cells`."""

    unit: Unit
    lacks: tuple[str, ...]  # what is known to be missing of the bill
    cells: dict[Key, _Cell] = field(default_factory=lambda: defaultdict(_Cell))
    differences: list[Difference] = field(default_factory=list)

    def explain(self, cause: Cause, cells: dict[Key, _Cell], sentence: Callable[[str], str]) -> None:
        """Name the gap of `cells` and take them out; nothing is said where there are none."""
        if not cells:
            return
        amount = sum((cell.gap for cell in cells.values()), Decimal(0))
        self.say(cause, amount, sentence(spelled(abs(amount), self.unit)))
        for key in cells:
            del self.cells[key]

    def say(self, cause: Cause, amount: Decimal, sentence: str) -> None:
        self.differences.append(Difference(cause=cause, amount=amount, sentence=sentence))

    def where(self, test: Callable[[Key, _Cell], bool]) -> dict[Key, _Cell]:
        return {key: cell for key, cell in self.cells.items() if test(key, cell)}


def compared(captured: Sequence[Captured], bill: Sequence[Sum], *, lacks: tuple[str, ...] = ()) -> Reconciliation:
    """The comparison itself; `lacks` is what is known to be missing of the bill.

    Raises:
        CannotReconcile: no call has a day.
    """
    days = [each.day for each in captured if each.day]
    if not days:
        raise CannotReconcile("No call has a time, so none can be laid beside a day of the bill. Import calls that do.")
    unit: Unit = "usd" if any(row.amount is not None for row in bill) else "tokens"
    dollars = [row for row in bill if unit == "tokens" or row.currency == "USD"]
    sides = _Sides(unit=unit, lacks=lacks)
    _incomplete(sides)
    _lay_out(sides, captured, [row for row in dollars if row.charge in TOKENS])
    _undated(sides, captured)
    _not_tokens(sides, dollars)
    _one_sided(sides, first=min(days), last=max(days))
    both = dict(sides.cells)
    _explain_rest(sides)
    return Reconciliation(
        unit=unit,
        billed=sum((_billed(row, unit) for row in dollars), Decimal(0)),
        captured=sum((_taken(each, unit) for each in captured), Decimal(0)),
        rate=_rate(both.values()),
        by_day=_table(both, lambda key: f"{key[0]:%Y-%m-%d}"),
        by_model=_table(both, lambda key: key[1]),
        differences=tuple(sides.differences),
        other_currencies=_other_currencies(bill),
        rejected_rows=0,
        rejects=(),
        assumptions=tuple(_assumptions(captured, bill)),
    )


def _lay_out(sides: _Sides, captured: Sequence[Captured], charges: Sequence[Sum]) -> None:
    """Both sides by day and model; a bill without models is compared by day alone."""
    named = any(row.model for row in charges)
    for row in charges:
        cell = sides.cells[row.day, canonical(row.model)]
        cell.is_billed = True
        cell.billed += _billed(row, sides.unit)
        cell.billed_tokens += row.tokens or 0
    for each in captured:
        if each.day is None:
            continue
        cell = sides.cells[each.day, canonical(each.model) if named else None]
        cell.is_captured = True
        cell.captured += _taken(each, sides.unit)
        cell.captured_tokens += each.tokens
        cell.unpriced += each.unpriced if sides.unit == "usd" else 0


def _billed(row: Sum, unit: Unit) -> Decimal:
    return (row.amount or Decimal(0)) if unit == "usd" else Decimal(row.tokens or 0)


def _taken(each: Captured, unit: Unit) -> Decimal:
    return each.usd if unit == "usd" else Decimal(each.tokens)


def canonical(model: str | None) -> str | None:
    """A model's name without the place it is served from, its date and its punctuation.

    >>> canonical("openai/gpt-4o-2024-08-06"), canonical("anthropic.claude-sonnet-4-5-20250929-v1:0")
    ('gpt-4o', 'claude-sonnet-4-5')
    """
    if not model:
        return None
    name = re.sub(r"[\s._]+", "-", re.split("/|::", model.lower())[-1].strip())
    name = re.sub(r"^([a-z]{2,6}-)?(anthropic|meta|amazon|mistral|cohere|openai)-(?=[a-z])", "", name)
    return re.sub(r"(-\d{4}-\d{2}-\d{2}|-\d{8}|-latest|-v\d+(:\d+)?|@\w+)+$", "", name) or None


# --- What only one side has ------------------------------------------------------------------------------------------

_WORDS = {
    "web_search": "web searches",
    "code_execution": "code execution",
    "storage": "storage",
    "tax": "tax",
    "credit": "credits",
    "commitment": "commitments",
    "adjustment": "adjustments",
    "other": "other charges",
}


def _incomplete(sides: _Sides) -> None:
    """Said first: whatever differs may be what the bill lacks, and nobody knows how much that is."""
    if sides.lacks:
        said = " and ".join(sides.lacks)
        sides.say("incomplete_bill", Decimal(0), f"Incomplete bill: {said}. What it lacks is in none of these sums.")


def _perhaps(sides: _Sides) -> str:
    """Added where calls stand beside no charge, or beside too little."""
    return "; the bill is incomplete, which may be why" if sides.lacks else ""


def _undated(sides: _Sides, captured: Sequence[Captured]) -> None:
    without = [each for each in captured if each.day is None]
    if without:
        amount = sum((_taken(each, sides.unit) for each in without), Decimal(0))
        count = sum(each.calls for each in without)
        said = spelled(amount, sides.unit)
        sides.say("undated_calls", -amount, f"{count:,} calls ({said}) have no time and stand beside no day.")


def _not_tokens(sides: _Sides, dollars: Sequence[Sum]) -> None:
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for row in dollars:
        if row.charge not in TOKENS:
            sums[row.charge] += _billed(row, sides.unit)
    for charge, amount in sorted(sums.items()):
        if amount:
            said = spelled(amount, sides.unit)
            sides.say("not_tokens", amount, f"{said} of the bill is {_WORDS[charge]}, which no call's tokens explain.")


def _one_sided(sides: _Sides, *, first: date, last: date) -> None:
    outside = sides.where(lambda key, cell: cell.is_billed and not first <= key[0] <= last)
    count = len({day for day, _ in outside})
    sides.explain(
        "outside_days",
        outside,
        lambda said: f"{said} was billed on {count:,} days outside of the log, which runs from {first} to {last}.",
    )
    billed_days = {day for (day, _), cell in sides.cells.items() if cell.is_billed}
    unbilled = sides.where(lambda key, _: key[0] not in billed_days)
    count = len({day for day, _ in unbilled})
    sides.explain(
        "days_not_billed",
        unbilled,
        lambda said: f"{said} of calls is on {count:,} days without a charge{_perhaps(sides)}.",
    )
    _one_sided_models(sides)


def _one_sided_models(sides: _Sides) -> None:
    logged = {model for (_, model), cell in sides.cells.items() if cell.is_captured}
    charged = {model for (_, model), cell in sides.cells.items() if cell.is_billed}
    unknown = sides.where(lambda key, _: key[1] not in logged)
    sides.explain(
        "unknown_models", unknown, lambda said: f"{said} was billed for models that no call names: {_names(unknown)}."
    )
    extra = sides.where(lambda key, _: key[1] not in charged)
    sides.explain(
        "models_not_billed",
        extra,
        lambda said: f"{said} of calls is of models that the bill never names: {_names(extra)}{_perhaps(sides)}.",
    )


def _names(cells: Iterable[Key]) -> str:
    names = sorted({model or "(model not said)" for _, model in cells})
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


# --- What both have --------------------------------------------------------------------------------------------------


def _explain_rest(sides: _Sides) -> None:
    for model in sorted({key[1] for key in sides.cells}, key=str):
        _explain_model(sides, model)
    _explain_factors(sides)
    if not sides.cells:
        return
    if _is_sampled(sides.cells):
        share = f"{_rate(sides.cells.values()) or 0:.0%}"
        sides.explain(
            "sampling",
            dict(sides.cells),
            lambda said: (
                f"The log holds about {share} of every day of the bill: it looks sampled; {said} is missing. "
                "If the log is whole, every call is billed at more than its list price."
            ),
        )
        return
    if moved := _moved(sides.cells):
        said = spelled(moved, sides.unit)
        sides.say(
            "time_zone",
            Decimal(0),
            f"Single days differ by {said} together and the sum agrees: the two cut days in different time zones.",
        )
    _last(sides)


def _explain_model(sides: _Sides, model: str | None) -> None:
    cells = sides.where(lambda key, _: key[1] == model)
    name = model or "The calls"
    if unpriced := sum(cell.unpriced for cell in cells.values()):
        sides.explain(
            "unpriced_calls",
            cells,
            lambda said: f"{name}: {unpriced:,} calls have no known price; the bill differs by {said}.",
        )
    elif (ratio := _other_rates(cells)) is not None:
        sides.explain(
            "rates",
            cells,
            lambda said: (
                f"{name}: the tokens agree and every day was billed at {ratio:.2f} times what the calls cost ({said}): "
                "another tier, a discount, or cached tokens counted in another way."
            ),
        )


def _other_rates(cells: dict[Key, _Cell]) -> Decimal | None:
    """The constant ratio of money where tokens agree; None where there is none, or it is 1."""
    billed = sum(cell.billed_tokens for cell in cells.values())
    taken = sum(cell.captured_tokens for cell in cells.values())
    paid, cost = _totals(cells)
    if not billed or not cost or abs(billed - taken) > AGREES * billed or not _is_constant(cells):
        return None
    return paid / cost if abs(paid / cost - 1) > AGREES else None


def _explain_factors(sides: _Sides) -> None:
    """Name a constant factor of all that is left, else of single models."""
    _explain_factor(sides, dict(sides.cells), "Every day")
    for model in sorted({key[1] for key in sides.cells if key[1]}):
        of_model = {key: cell for key, cell in sides.cells.items() if key[1] == model}
        _explain_factor(sides, of_model, f"{model}: every day")


def _explain_factor(sides: _Sides, cells: dict[Key, _Cell], what: str) -> None:
    if not _has_factor(cells):
        # The log may begin or end in the middle of a day of the bill.
        cells, what = _without_ends(cells), f"{what} but the first and the last"
        if not _has_factor(cells):
            return
    paid, cost = _totals(cells)
    ratios = [billed / taken for billed, taken in _by_day(cells).values()]
    models = len({model for _, model in cells})
    over = f"{len(ratios):,} days" + (f", alike for {models:,} models" if models > 1 else "")
    candidates = (
        "a negotiated discount would do that, or credits that come off every charge"
        if paid < cost
        else "the surcharge of a reseller or of a region would do that"
    )
    sides.explain(
        "rates",
        cells,
        lambda said: (
            f"{what} was billed at {paid / cost:.3f} times what the calls cost ({min(ratios):.3f} to {max(ratios):.3f} "
            f"over {over}; {said}): {candidates}."
        ),
    )


def _has_factor(cells: dict[Key, _Cell]) -> bool:
    """Whether billed / captured is the same, and not 1, on each of several days and for each model.

    Only where the bill counts no tokens, which would tell more. Where much more is billed, calls are missing instead.
    """
    paid, cost = _totals(cells)
    days = _by_day(cells)
    if len(days) < FEW_DAYS or not cost or any(cell.billed_tokens for cell in cells.values()):
        return False
    ratio = paid / cost
    if ratio <= 0 or abs(ratio - 1) <= AGREES or cost < (1 - MISSING) * paid:
        return False
    each_day = all(abs(billed - ratio * taken) <= AGREES * ratio * taken for billed, taken in days.values())
    # A model with few calls may be off by the cents of a bill.
    of_models = _by_model(cells).values()
    return each_day and all(
        abs(billed - ratio * taken) <= max(AGREES * ratio * taken, ROUNDED * paid) for billed, taken in of_models
    )


def _without_ends(cells: dict[Key, _Cell]) -> dict[Key, _Cell]:
    days = sorted({day for day, _ in cells})
    return {key: cell for key, cell in cells.items() if key[0] in days[1:-1]}


def _is_sampled(cells: dict[Key, _Cell]) -> bool:
    billed, captured = _totals(cells)
    return billed > 0 and 0 < captured < (1 - MISSING) * billed and _is_constant(cells)


def _is_constant(cells: dict[Key, _Cell]) -> bool:
    """Whether captured / billed is about the same on each of several days."""
    shares = [taken / paid for paid, taken in _by_day(cells).values() if paid > 0]
    mean = sum(shares, Decimal(0)) / len(shares) if shares else Decimal(0)
    return len(shares) >= FEW_DAYS and all(abs(share - mean) <= CONSTANT * mean for share in shares)


def _moved(cells: dict[Key, _Cell]) -> Decimal | None:
    """What stands on other days, where all days together agree."""
    billed, captured = _totals(cells)
    moved = sum((abs(paid - taken) for paid, taken in _by_day(cells).values()), Decimal(0)) / 2
    return moved if abs(billed - captured) <= AGREES * billed and moved > AGREES * billed else None


def _last(sides: _Sides) -> None:
    billed, captured = _totals(sides.cells)
    gap = billed - captured
    if not gap:
        return
    if abs(gap) <= ROUNDED * billed:
        sides.say("rounding", gap, f"{spelled(abs(gap), sides.unit)} is within what rounding makes.")
        return
    more = "more was billed than the calls explain" if gap > 0 else "less was billed than the calls cost"
    why = (_perhaps(sides) if gap < 0 else "") or ", and nothing in the data says why"
    sides.say("unexplained", gap, f"{spelled(abs(gap), sides.unit)} {more}{why}.")


def _totals(cells: dict[Key, _Cell]) -> tuple[Decimal, Decimal]:
    """(billed, captured)."""
    return (
        sum((cell.billed for cell in cells.values()), Decimal(0)),
        sum((cell.captured for cell in cells.values()), Decimal(0)),
    )


def _by_day(cells: dict[Key, _Cell]) -> dict[date, tuple[Decimal, Decimal]]:
    return _grouped(cells, lambda key: key[0])


def _by_model(cells: dict[Key, _Cell]) -> dict[str | None, tuple[Decimal, Decimal]]:
    return _grouped(cells, lambda key: key[1])


def _grouped(cells: dict[Key, _Cell], name: Callable[[Key], G]) -> dict[G, tuple[Decimal, Decimal]]:
    groups: dict[G, dict[Key, _Cell]] = defaultdict(dict)
    for key, cell in cells.items():
        groups[name(key)][key] = cell
    return {group: _totals(inside) for group, inside in groups.items()}


# --- What is told ----------------------------------------------------------------------------------------------------


def spelled(amount: Decimal, unit: Unit) -> str:
    """An amount in a sentence."""
    return spell_dollars(amount) if unit == "usd" else f"{int(amount):,} tokens"


def _rate(cells: Iterable[_Cell]) -> float | None:
    each = list(cells)
    billed = sum((cell.billed for cell in each), Decimal(0))
    return float(sum((cell.captured for cell in each), Decimal(0)) / billed) if billed > 0 else None


def _table(cells: dict[Key, _Cell], name: Callable[[Key], str | None]) -> tuple[Compared, ...]:
    groups: dict[str | None, list[_Cell]] = defaultdict(list)
    for key, cell in cells.items():
        groups[name(key)].append(cell)
    return tuple(
        Compared(
            key=key,
            billed=sum((cell.billed for cell in group), Decimal(0)),
            captured=sum((cell.captured for cell in group), Decimal(0)),
            rate=_rate(group),
        )
        for key, group in sorted(groups.items(), key=lambda entry: str(entry[0]))
    )


def _other_currencies(bill: Sequence[Sum]) -> dict[str, Decimal]:
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for row in bill:
        if row.amount is not None and row.currency != "USD":
            sums[row.currency] += row.amount
    return dict(sums)


def _assumptions(captured: Sequence[Captured], bill: Sequence[Sum]) -> Iterator[str]:
    yield "Days are UTC. The first and the last day of a log may be cut."
    yield "Models are compared without provider, date and punctuation of their names."
    if not any(row.amount is not None for row in bill):
        yield "The bill has no amounts: tokens are compared, because a sum of tokens has no price."
    for currency, amount in sorted(_other_currencies(bill).items()):
        yield f"{amount.normalize():f} {currency} of the bill is not dollars and is added to nothing."
    if unpriced := sum(each.unpriced for each in captured):
        yield f"{unpriced:,} calls have no known price and count as nothing in dollars."
