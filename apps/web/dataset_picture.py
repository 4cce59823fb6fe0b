"""A dataset at a glance: its facts, and its spend by day, model and feature, as charts and tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from apps.accounts.tenancy import Principal
from apps.llm.amounts import UNKNOWN, spell_dollars
from apps.optimization.breakdown import spend_breakdown
from apps.optimization.models import Dataset
from apps.optimization.overview import overview
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
    charts: tuple[dict[str, Any], ...]
    tables: tuple[dict[str, Any], ...]


def draw(*, principal: Principal, dataset: Dataset) -> Picture:
    """Compute the picture from the calls; about five passes over them."""
    with open_calls(principal=principal, dataset_id=dataset.pk) as calls:
        whole = overview(calls)
        by_day = spend_breakdown(calls, "day", limit=400)
        parts = [spend_breakdown(calls, by, limit=TABLE_ROWS) for by in _DIMENSIONS]
    known = [part for part in parts if any(row.key is not None for row in part.rows)]
    return Picture(
        facts=_facts(whole, dataset.columns),
        warnings=_warnings(whole),
        charts=(*_line_of_days(by_day, whole.first_call_at), *(_bars(part) for part in known)),
        tables=tuple(_table(part) for part in known),
    )


_DIMENSIONS: Sequence[Dimension] = ("model", "feature")


def _facts(whole: Overview, columns: Mapping[str, str]) -> tuple[Fact, ...]:
    """The totals; one whose column the source does not have is unknown."""

    def total(name: str, count: int, field: str) -> Fact:
        return Fact(name=name, value=number(count) if field in columns else UNKNOWN)

    facts = [
        Fact(name="Spend", value=spell_dollars(whole.cost_usd)),
        Fact(name="Calls", value=number(whole.calls)),
        total("Tokens in", whole.tokens.input, "input_tokens"),
        total("of those cached", whole.tokens.cached_read, "cached_read_tokens"),
        total("Tokens out", whole.tokens.output, "output_tokens"),
        total("Failed calls", whole.failed_calls, "status"),
    ]
    if whole.recorded_cost_usd is not None:
        facts.append(Fact(name="As the source recorded it", value=spell_dollars(whole.recorded_cost_usd)))
    return tuple(facts)


def _warnings(whole: Overview) -> tuple[str, ...]:
    if not whole.unpriced_calls:
        return ()
    models = ", ".join(whole.unpriced_models[:5]) + (" and others" if len(whole.unpriced_models) > 5 else "")
    return (
        f"The price of {whole.unpriced_calls:,} calls is unknown, {whole.unpriced_share:.1%} of all tokens: {models}. "
        "They are left out of every dollar here.",
    )


def _line_of_days(by_day: Breakdown, begun: datetime | None) -> tuple[dict[str, Any], ...]:
    points = _points(row for row in by_day.rows if row.key is not None)
    if len(points) < 2:
        return ()
    title = "Spend by day (UTC)"
    if not dated(begun):
        title = "Spend by day of the trace"
        points = [point | {"label": _day_of_trace(point["label"])} for point in points]
    return ({"title": title, "kind": "line", "unit": "USD", "points": points},)


def _day_of_trace(day: str) -> str:
    """
    >>> _day_of_trace("1970-01-02")
    'day 2'
    """
    return f"day {(date.fromisoformat(day) - date(1970, 1, 1)).days + 1}"


def _bars(part: Breakdown) -> dict[str, Any]:
    points = _points(part.rows)[:BARS]
    return {"title": f"Spend by {part.by}", "kind": "bar", "unit": "USD", "points": points}


def _points(rows: Iterable[BreakdownRow]) -> list[dict[str, Any]]:
    """A point per row whose cost is known."""
    return [{"label": row.key or NOT_SAID, "value": float(row.cost_usd)} for row in rows if row.cost_usd is not None]


def _table(part: Breakdown) -> dict[str, Any]:
    rows = [
        [
            row.key or NOT_SAID,
            number(row.calls),
            number(row.tokens.input),
            number(row.tokens.output),
            spell_dollars(row.cost_usd),
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
