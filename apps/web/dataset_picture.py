"""A dataset at a glance: its facts, and its spend by day, model and feature, as charts and tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from apps.accounts.tenancy import Principal
from apps.optimization.breakdown import spend_breakdown
from apps.optimization.models import Dataset
from apps.optimization.overview import overview
from apps.optimization.results import Breakdown, Dimension, Overview
from apps.optimization.services import open_calls
from apps.web.templatetags.web import UNKNOWN, number, usd

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
        facts=_facts(whole),
        warnings=_warnings(whole),
        charts=(*_line_of_days(by_day), *(_bars(part) for part in known)),
        tables=tuple(_table(part) for part in known),
    )


_DIMENSIONS: Sequence[Dimension] = ("model", "feature")


def _facts(whole: Overview) -> tuple[Fact, ...]:
    facts = [
        Fact(name="Spend", value=usd(whole.cost_usd) if whole.unpriced_share < 1 else "unknown"),
        Fact(name="Calls", value=number(whole.calls)),
        Fact(name="Tokens in", value=number(whole.tokens.input)),
        Fact(name="of those cached", value=number(whole.tokens.cached_read)),
        Fact(name="Tokens out", value=number(whole.tokens.output)),
        Fact(name="Failed calls", value=number(whole.failed_calls)),
    ]
    if whole.recorded_cost_usd is not None:
        facts.append(Fact(name="As the source recorded it", value=usd(whole.recorded_cost_usd)))
    return tuple(facts)


def _warnings(whole: Overview) -> tuple[str, ...]:
    if not whole.unpriced_calls:
        return ()
    models = ", ".join(whole.unpriced_models[:5]) + (" and others" if len(whole.unpriced_models) > 5 else "")
    return (
        f"The price of {whole.unpriced_calls:,} calls is unknown ({models}), {whole.unpriced_share:.1%} of all tokens. "
        "They are left out of every dollar here.",
    )


def _line_of_days(by_day: Breakdown) -> tuple[dict[str, Any], ...]:
    points = [{"label": row.key, "value": float(row.cost_usd)} for row in by_day.rows if row.key is not None]
    if len(points) < 2:
        return ()
    return ({"title": "Spend by day (UTC)", "kind": "line", "unit": "USD", "points": points},)


def _bars(part: Breakdown) -> dict[str, Any]:
    priced = [row for row in part.rows if row.unpriced_calls < row.calls]
    points = [{"label": row.key or NOT_SAID, "value": float(row.cost_usd)} for row in priced[:BARS]]
    return {"title": f"Spend by {part.by}", "kind": "bar", "unit": "USD", "points": points}


def _table(part: Breakdown) -> dict[str, Any]:
    rows = [
        [
            row.key or NOT_SAID,
            number(row.calls),
            number(row.tokens.input),
            number(row.tokens.output),
            *((usd(row.cost_usd), f"{row.share:.1%}") if row.unpriced_calls < row.calls else (UNKNOWN, "–")),
        ]
        for row in part.rows
    ]
    more = f" (the first {len(rows)} of {len(rows) + part.other_rows})" if part.other_rows else ""
    return {
        "title": f"By {part.by}{more}",
        "columns": [part.by.capitalize(), "Calls", "Tokens in", "Tokens out", "Spend", "Share"],
        "rows": rows,
    }
