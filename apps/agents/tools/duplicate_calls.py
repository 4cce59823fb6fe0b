"""Requests that were sent twice at once."""

from apps.agents.artifacts import Measurement
from apps.agents.measuring import OnDataset, count, measured, missing, money, saving, table, text
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Tool, tools
from apps.optimization.calls import Calls
from apps.optimization.simulators import simulate

COLUMNS = {"Feature": text("feature"), "Duplicates": count("calls"), "Cost of the duplicates": money("saving_usd")}


def measure(calls: Calls) -> Measurement:
    found = simulate(calls, "duplicate_calls")
    if not found.detail:
        return Measurement(headline=found.why or "", missing=missing(*found.missing))
    duplicates, features = found.detail["duplicates"], found.detail["by_feature"]
    told = f"{duplicates:,} calls were" if duplicates else "No call was"
    return Measurement(
        headline=f"{told} sent while the same request was under way, or moments after it.",
        savings=[saving(found, how="Give each request a key, and let the second one wait for the first one's answer.")],
        tables=[table("Requests sent twice, by feature", COLUMNS, features)] if features else [],
        missing=missing(*found.missing),
    )


async def run(context: UserExecutionContext, arguments: OnDataset) -> Measurement:
    return await measured(context, arguments, measure)


TOOL = tools.register(
    Tool(
        name="duplicate_calls",
        description="Requests that were sent again while the first was under way, and what the second ones cost.",
        arguments=OnDataset,
        run=run,
        slow_after=None,
        summarize=lambda result: result.headline,
    )
)
