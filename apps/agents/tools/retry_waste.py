"""Attempts that were paid for in vain."""

from apps.agents.artifacts import Measurement
from apps.agents.measuring import OnDataset, count, measured, missing, money, saving, table, text
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Tool, tools
from apps.optimization.calls import Calls
from apps.optimization.simulators import simulate

COLUMNS = {
    "Kind": text("kind"),
    "Calls": count("calls"),
    "Tried again": count("tried_again"),
    "Cost": money("cost_usd"),
    "Avoidable": text("avoidable"),
}


def measure(calls: Calls) -> Measurement:
    found = simulate(calls, "retry_waste")
    if not found.detail:
        return Measurement(headline=found.why or "", missing=missing(*found.missing))
    kinds, avoidable = found.detail["by_kind"], found.detail["avoidable_calls"]
    return Measurement(
        headline=f"{avoidable:,} billed attempts were made in vain and could have been avoided.",
        savings=[saving(found, how="Check requests before they are sent, slow down at limits, keep the first answer.")],
        tables=[table("Billed attempts in vain", COLUMNS, kinds)] if kinds else [],
        missing=missing(*found.missing),
    )


async def run(context: UserExecutionContext, arguments: OnDataset) -> Measurement:
    return await measured(context, arguments, measure)


TOOL = tools.register(
    Tool(
        name="retry_waste",
        description="Billed failures and requests asked again after their answer; which of them were avoidable.",
        arguments=OnDataset,
        run=run,
        slow_after=None,
        summarize=lambda result: result.headline,
    )
)
