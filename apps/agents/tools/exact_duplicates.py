"""Calls that repeat an earlier one word for word."""

from apps.agents.artifacts import Measurement
from apps.agents.measuring import OnDataset, count, measured, missing, money, saving, table, text
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Tool, tools
from apps.optimization.calls import Calls
from apps.optimization.results import Strategy
from apps.optimization.simulators import simulate

COLUMNS = {
    "Model": text("model"),
    "Feature": text("feature"),
    "Repeats": count("repeats"),
    "Cost of the repeats": money("saving_usd"),
    "First seen in line": count("line"),
}


def measure(calls: Calls) -> Measurement:
    found = simulate(calls, "exact_duplicates")
    if not found.detail:
        return Measurement(headline=found.why or "", missing=missing(*found.missing))
    tops = found.detail["top"]
    return Measurement(
        headline=_headline(found),
        savings=[saving(found, how="Keep answers by prompt, model and parameters, and look there first.")],
        tables=[table("Most repeated calls", COLUMNS, tops)] if tops else [],
        missing=missing(*found.missing),
    )


def _headline(found: Strategy) -> str:
    repeats, warm = found.detail["repeats"], found.detail["repeats_temperature_above_zero"]
    if not repeats:
        return "No call repeats an earlier one word for word."
    careful = f" {warm:,} of them run above temperature 0, where a cache takes away variety." if warm else ""
    return f"{repeats:,} calls repeat an earlier one word for word.{careful}"


async def run(context: UserExecutionContext, arguments: OnDataset) -> Measurement:
    return await measured(context, arguments, measure)


TOOL = tools.register(
    Tool(
        name="exact_duplicates",
        description="Calls that repeat an earlier one word for word, and what a cache of answers would have saved.",
        arguments=OnDataset,
        run=run,
        slow_after=None,
        summarize=lambda result: result.headline,
    )
)
