"""A dataset at a glance: its facts, and its spend by day, model and feature, as charts and tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from apps.accounts.tenancy import Principal
from apps.llm.amounts import UNKNOWN, spell_dollars
from apps.optimization.breakdown import spend_breakdown
from apps.optimization.local import Local, local_of
from apps.optimization.models import Dataset
from apps.optimization.overview import overview, prices_assumed
from apps.optimization.results import Breakdown, BreakdownRow, Dimension, Overview
from apps.optimization.services import open_calls
from apps.web.templatetags.web import dated, number

BARS = 12  # in one chart; the table has more
TABLE_ROWS = 50
NOT_SAID = "(not said)"


@dataclass(frozen=True, kw_only=True)
class Fact:
    name: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What the page of a dataset shows; charts and tables in the shape that reports use."""

    facts: tuple[Fact, ...]
    warnings: tuple[str, ...]
    differences: tuple[str, ...]
    charts: tuple[dict[str, Any], ...]
    tables: tuple[dict[str, Any], ...]


def draw(*, principal: Principal, dataset: Dataset) -> Picture:
    """Compute the picture from the calls; about five passes over them."""
    with open_calls(principal=principal, dataset_id=dataset.pk) as calls:
        whole = overview(calls)
        by_day = spend_breakdown(calls, "day", limit=400)
        parts = [spend_breakdown(calls, by, limit=TABLE_ROWS) for by in _DIMENSIONS]
    local = local_of(dataset)
    known = [part for part in parts if any(row.key is not None for row in part.rows)]
    return Picture(
        facts=_facts(whole, dataset.columns, local),
        warnings=_warnings(whole),
        differences=differences(whole, dataset),
        charts=(*_line_of_days(by_day, whole.first_call_at, local), *(_bars(part, local) for part in known)),
        tables=tuple(_table(part, local) for part in known),
    )


_DIMENSIONS: Sequence[Dimension] = ("model", "feature", "user")


def _facts(whole: Overview, columns: Mapping[str, str], local: Local) -> tuple[Fact, ...]:
    """The totals; one whose column the source does not have is unknown."""

    def total(name: str, count: int, field: str) -> Fact:
        return Fact(name=name, value=number(count) if field in columns else UNKNOWN)

    facts = [
        Fact(name="Spend", value=local.money(whole.cost_usd)),
        Fact(name="Calls", value=number(whole.calls)),
        total("Tokens in", whole.tokens.input, "input_tokens"),
        total("of those cached", whole.tokens.cached_read, "cached_read_tokens"),
        total("Tokens out", whole.tokens.output, "output_tokens"),
        total("Failed calls", whole.failed_calls, "status"),
    ]
    if whole.recorded_cost_usd is not None:
        facts.append(Fact(name="As the source recorded it", value=local.money(whole.recorded_cost_usd)))
    return tuple(facts)


def _warnings(whole: Overview) -> tuple[str, ...]:
    if not whole.unpriced_calls:
        return ()
    models = ", ".join(whole.unpriced_models[:5]) + (" and others" if len(whole.unpriced_models) > 5 else "")
    return (
        f"The price of {whole.unpriced_calls:,} calls is unknown, {whole.unpriced_share:.1%} of all tokens: {models}. "
        "They are left out of every dollar here.",
    )


def differences(whole: Overview, dataset: Dataset) -> tuple[str, ...]:
    """Why the provider's own dashboard may say another sum; only the reasons that apply to these calls."""
    return (
        _list_prices(whole, dataset),
        *_days(whole, dataset),
        _failures(whole, dataset.columns),
        *_kept_from_provider(whole),
        *_without_price(whole),
        *_not_read(dataset),
        "Calls that do not pass through what wrote this log are on the dashboard and not here.",
    )


def _list_prices(whole: Overview, dataset: Dataset) -> str:
    said = (
        f"Calls are priced from a list ({dataset.prices or UNKNOWN}); "
        "your contract's discounts, credits and taxes are not in it."
    )
    if assumed := prices_assumed(whole.assumed_share, dataset.prices or UNKNOWN):
        said += f" {assumed}"
    if whole.recorded_cost_usd is not None:
        said += (
            f" The source recorded {spell_dollars(whole.recorded_cost_usd)} on {whole.recorded_on:,} calls, "
            f"for which the list says {spell_dollars(whole.computed_on_recorded_usd)}."
        )
    return said


def _days(whole: Overview, dataset: Dataset) -> tuple[str, ...]:
    if not dated(whole.first_call_at):
        return ()
    return (
        f"A day here begins at midnight {dataset.time_zone}; a dashboard in another time zone moves calls to the day "
        "before or after.",
    )


def _failures(whole: Overview, columns: Mapping[str, str]) -> str:
    if "status" not in columns:
        return "The log does not say which calls failed, so every call counts as paid."
    return (
        f"{whole.failed_calls:,} calls failed and count as not paid unless the log says what they cost; "
        "providers bill some failures, for example those that were cut off."
    )


def _kept_from_provider(whole: Overview) -> tuple[str, ...]:
    if not whole.cached_answers:
        return ()
    return (f"{whole.cached_answers:,} answers came from your own cache; the provider never saw them.",)


def _without_price(whole: Overview) -> tuple[str, ...]:
    if not whole.unpriced_calls:
        return ()
    return (
        f"{whole.unpriced_calls:,} calls have no known price, {whole.unpriced_share:.1%} of all tokens; "
        "the dashboard has them in its sum.",
    )


def _not_read(dataset: Dataset) -> tuple[str, ...]:
    if not dataset.rejected_rows:
        return ()
    return (f"{dataset.rejected_rows:,} rows of the file could not be used; their calls are not in the sum.",)


def _line_of_days(by_day: Breakdown, begun: datetime | None, local: Local) -> tuple[dict[str, Any], ...]:
    points = _points((row for row in by_day.rows if row.key is not None), local)
    if len(points) < 2:
        return ()
    title = f"Spend by day ({by_day.time_zone})"
    if not dated(begun):
        title = "Spend by day of the trace"
        points = [point | {"label": day_of_trace(point["label"])} for point in points]
    return ({"title": title, "kind": "line", "unit": local.currency, "points": points},)


def day_of_trace(day: str) -> str:
    """
    >>> day_of_trace("1970-01-02")
    'day 2'
    """
    return f"day {(date.fromisoformat(day) - date(1970, 1, 1)).days + 1}"


def _bars(part: Breakdown, local: Local) -> dict[str, Any]:
    points = _points(part.rows, local)[:BARS]
    return {"title": f"Spend by {part.by}", "kind": "bar", "unit": local.currency, "points": points}


def _points(rows: Iterable[BreakdownRow], local: Local) -> list[dict[str, Any]]:
    """A point per row whose cost is known."""
    known = ((row.key or NOT_SAID, row.cost_usd) for row in rows if row.cost_usd is not None)
    return [{"label": name, "value": float(usd * local.rate)} for name, usd in known]


def _table(part: Breakdown, local: Local) -> dict[str, Any]:
    rows = [
        [
            row.key or NOT_SAID,
            number(row.calls),
            number(row.tokens.input),
            number(row.tokens.output),
            local.money(row.cost_usd),
            "–" if row.share is None else f"{row.share:.1%}",
        ]
        for row in part.rows
    ]
    more = f" (the first {len(rows)} of {len(rows) + part.other_rows})" if part.other_rows else ""
    return {
        "title": f"By {part.by}{more}",
        "columns": [part.by.capitalize(), "Calls", "Tokens in", "Tokens out", "Spend", "Share"],
        "rows": rows,
    }
