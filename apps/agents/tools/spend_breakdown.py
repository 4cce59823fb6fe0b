"""Where the money goes: by model, feature, user and day."""

from collections.abc import Iterable, Mapping
from typing import Any

from apps.agents.artifacts import Chart, Measurement, Point, Table
from apps.agents.measuring import OnDataset, called, count, measured, missing, money, part, percent, table, text
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Tool, tools
from apps.llm.amounts import spell_dollars
from apps.optimization.breakdown import spend_breakdown
from apps.optimization.calls import Calls
from apps.optimization.results import Breakdown, BreakdownRow, Dimension

DIMENSIONS: tuple[Dimension, ...] = ("model", "feature", "user")
SHOWN = 12  # rows of a table, bars of a chart
COLUMNS = {"Calls": count("calls"), "Cost": money("cost_usd"), "Share": part("share")}


def measure(calls: Calls) -> Measurement:
    found = {by: spend_breakdown(calls, by, limit=SHOWN) for by in DIMENSIONS}
    by_day = spend_breakdown(calls, "day", limit=366)
    told = {by: each for by, each in found.items() if any(row.key is not None for row in each.rows)}
    return Measurement(
        headline=_headline(told),
        tables=[_table(each) for by, each in told.items()],
        charts=[chart for chart in (*map(_bars, told.values()), _days(by_day)) if len(chart.points) > 1],
        missing=missing(*(by for by in ("feature", "user") if by not in told)),
    )


def _headline(told: Mapping[Dimension, Breakdown]) -> str:
    said = []
    for name, found in told.items():
        named = [(row.key, row) for row in found.rows if row.key is not None and row.cost_usd]
        if named and found.covered_share:
            key, top = named[0]
            cost = spell_dollars(top.cost_usd)
            said.append(f"The dearest {name} is {called(key)}: {cost}, {percent(top.share)} of the spend.")
    return " ".join(said) or "No call has a known price, so spend cannot be broken down."


def _table(found: Breakdown) -> Table:
    rows: list[dict[str, Any]] = [row.model_dump() for row in found.rows]
    return table(f"Spend by {found.by}", {found.by.title(): text("key"), **COLUMNS}, rows)


def _bars(found: Breakdown) -> Chart:
    rows = [row for row in found.rows if row.cost_usd]
    return Chart(title=f"Spend by {found.by}", kind="bar", unit="USD", points=_points(rows))


def _days(found: Breakdown) -> Chart:
    rows = [row for row in found.rows if row.key is not None]
    return Chart(title="Spend by day", kind="line", unit="USD", points=_points(rows))


def _points(rows: Iterable[BreakdownRow]) -> list[Point]:
    """A point per row whose cost is known."""
    return [
        Point(label=row.key or "(not given)", value=float(row.cost_usd)) for row in rows if row.cost_usd is not None
    ]


async def run(context: UserExecutionContext, arguments: OnDataset) -> Measurement:
    return await measured(context, arguments, measure)


TOOL = tools.register(
    Tool(
        name="spend_breakdown",
        description="Spend by model, by feature, by user and by day.",
        arguments=OnDataset,
        run=run,
        slow_after=None,
        summarize=lambda result: result.headline,
    )
)
