"""Where the money goes: by model, feature and day."""

from typing import Any

from apps.agents.artifacts import Chart, Measurement, Point, Table
from apps.agents.composing import dollars
from apps.agents.measuring import OnDataset, count, measured, missing, money, percent, table, text
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Tool, tools
from apps.optimization.breakdown import spend_breakdown
from apps.optimization.calls import Calls
from apps.optimization.results import Breakdown

SHOWN = 12  # rows of a table, bars of a chart
COLUMNS = {"Calls": count("calls"), "Cost": money("cost_usd"), "Share": lambda row: percent(float(str(row["share"])))}


def measure(calls: Calls) -> Measurement:
    by_model = spend_breakdown(calls, "model", limit=SHOWN)
    by_feature = spend_breakdown(calls, "feature", limit=SHOWN)
    by_day = spend_breakdown(calls, "day", limit=366)
    return Measurement(
        headline=_headline(by_model, by_feature),
        tables=[_table(by_model), *([_table(by_feature)] if by_feature.covered_share else [])],
        charts=[chart for chart in (_bars(by_model), _bars(by_feature), _days(by_day)) if len(chart.points) > 1],
        missing=[] if by_feature.covered_share else missing("feature"),
    )


def _headline(by_model: Breakdown, by_feature: Breakdown) -> str:
    said = []
    for found, name in ((by_model, "model"), (by_feature, "feature")):
        named = [row for row in found.rows if row.key is not None and row.cost_usd]
        if named and found.covered_share:
            top = named[0]
            said.append(
                f"The dearest {name} is {top.key}: {dollars(str(top.cost_usd))}, {percent(top.share)} of the spend."
            )
    return " ".join(said) or "No call has a known price, so spend cannot be broken down."


def _table(found: Breakdown) -> Table:
    rows: list[dict[str, Any]] = [row.model_dump() for row in found.rows]
    return table(f"Spend by {found.by}", {found.by.title(): text("key"), **COLUMNS}, rows)


def _bars(found: Breakdown) -> Chart:
    return Chart(
        title=f"Spend by {found.by}", kind="bar", unit="USD", points=[_point(row) for row in found.rows if row.cost_usd]
    )


def _days(found: Breakdown) -> Chart:
    return Chart(
        title="Spend by day", kind="line", unit="USD", points=[_point(row) for row in found.rows if row.key is not None]
    )


def _point(row: Any) -> Point:
    return Point(label=row.key or "(not given)", value=float(row.cost_usd))


async def run(context: UserExecutionContext, arguments: OnDataset) -> Measurement:
    return await measured(context, arguments, measure)


TOOL = tools.register(
    Tool(
        name="spend_breakdown",
        description="Spend by model, by feature and by day.",
        arguments=OnDataset,
        run=run,
        summarize=lambda result: result.headline,
    )
)
