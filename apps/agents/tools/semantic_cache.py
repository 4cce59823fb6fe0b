"""Calls that ask nearly what an earlier one asked, and whether its answer may be given for theirs."""

from apps.agents.artifacts import Measurement
from apps.agents.measuring import OnDataset, count, measured, missing, money, part, saving, table
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Tool, tools
from apps.optimization.calls import Calls
from apps.optimization.results import Strategy
from apps.optimization.simulators import simulate

COLUMNS = {
    "As alike as": lambda row: f"{row['threshold']:.2f}",
    "Near repeats": count("hits"),
    "Their cost": money("cost_usd"),
    "Pairs with both answers": count("pairs"),
    "of them different": count("different"),
    "At most wrong": part("bound"),
}


def measure(calls: Calls) -> Measurement:
    found = simulate(calls, "semantic_cache")
    if not found.detail.get("curve"):
        return Measurement(headline=found.why or "", missing=missing(*found.missing))
    how = "Look for the nearest question of the same user first, and keep each hit with the question it was taken for."
    return Measurement(
        headline=_headline(found),
        savings=[saving(found, how=how)],
        tables=[table("Near repeats by how alike they must be; judged on the earlier half", COLUMNS, _met(found))],
        missing=missing(*found.missing),
    )


def _met(found: Strategy) -> list[dict[str, object]]:
    """The thresholds that any call reaches."""
    return [point for point in found.detail["curve"] if point["hits"]]


def _headline(found: Strategy) -> str:
    if not found.detail.get("safe"):
        return found.why or ""
    return (
        f"{found.detail['hits']:,} calls of the later half ask nearly what an earlier one asked; of "
        f"{found.detail['pairs']:,} pairs of such questions {found.detail['different']:,} were answered differently."
    )


async def run(context: UserExecutionContext, arguments: OnDataset) -> Measurement:
    return await measured(context, arguments, measure)


TOOL = tools.register(
    Tool(
        name="semantic_cache",
        description="Calls that ask nearly what an earlier one asked, what they cost, and whether the recorded answers "
        "show that one may be answered for the other.",
        arguments=OnDataset,
        run=run,
        slow_after=None,
        summarize=lambda result: result.headline,
    )
)
