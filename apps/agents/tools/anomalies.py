"""Hours and days that cost far more than their like, and why."""

from collections.abc import Sequence

from apps.agents.artifacts import Measurement, Table
from apps.agents.measuring import ANALYSIS_DEADLINE, OnDataset, computed
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Tool, tools
from apps.llm.amounts import spell_dollars
from apps.optimization.anomalies import ENOUGH_DAYS
from apps.optimization.models import StoredAnalysis
from apps.optimization.results import Analysis, Anomaly

COLUMNS = ["From", "To", "More than usual", "Largest cause", "User whose spend grew most"]


def measure(stored: StoredAnalysis) -> Measurement:
    found = Analysis.model_validate(stored.result).anomalies
    return Measurement(
        headline=_headline(found),
        tables=[_table(found)] if found else [],
        analysis=stored.pk,
    )


def _headline(found: Sequence[Anomaly] | None) -> str:
    if found is None:
        return f"What stands out cannot be told: that takes {ENOUGH_DAYS} days of calls with a known price."
    if not found:
        return "No hour and no day cost far more than the same hours and days of other weeks."
    largest = max(found, key=lambda each: each.excess_usd)
    when = f"{largest.from_:%Y-%m-%d %H:%M} to {largest.to:%Y-%m-%d %H:%M} UTC"
    spans = "One span stands" if len(found) == 1 else f"{len(found)} spans stand"
    return (
        f"{spans} out. The largest, {when}, cost **{spell_dollars(largest.excess_usd)}** more than usual. "
        f"{largest.cause}"
    )


def _table(found: Sequence[Anomaly]) -> Table:
    rows = [
        [
            f"{each.from_:%Y-%m-%d %H:%M}",
            f"{each.to:%Y-%m-%d %H:%M}",
            spell_dollars(each.excess_usd),
            each.cause,
            f"{each.user}: {spell_dollars(each.user_excess_usd)}" if each.user else "(not given)",
        ]
        for each in found
    ]
    return Table(title="What stood out (UTC)", columns=COLUMNS, rows=rows)


async def run(context: UserExecutionContext, arguments: OnDataset) -> Measurement:
    return measure(await computed(context, arguments.dataset, "savings"))


TOOL = tools.register(
    Tool(
        name="anomalies",
        description="Hours and days that cost far more than the same ones of other weeks, each with its cause.",
        arguments=OnDataset,
        run=run,
        deadline=ANALYSIS_DEADLINE,
        slow_after=None,
        summarize=lambda result: result.headline.replace("**", ""),
    )
)
