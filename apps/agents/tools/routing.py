"""Calls that a cheaper model can answer without losing quality, told apart one by one."""

from apps.agents.artifacts import Measurement
from apps.agents.measuring import OnDataset, measured, missing, money, part, saving, table, text
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Tool, tools
from apps.optimization.calls import Calls
from apps.optimization.simulators import simulate

COLUMNS = {
    "Feature": text("feature"),
    "Candidate": text("candidate"),
    "Decided by": text("policy"),
    "Calls moved": part("moved_share"),
    "Quality kept": part("quality_kept"),
    "Saved": money("saving_usd"),
}


def measure(calls: Calls) -> Measurement:
    found = simulate(calls, "routing")
    if found.saving_usd is None:
        return Measurement(headline=found.why or "", missing=missing(*found.missing))
    routes = found.detail["routes"]
    return Measurement(
        headline=found.why or "A policy kept the quality on calls that it was not chosen on.",
        savings=[saving(found, how="Route by the policy, and keep a tenth of the calls on the old model to compare.")],
        tables=[table("Policies, on the half they were not chosen on", COLUMNS, routes)] if routes else [],
    )


async def run(context: UserExecutionContext, arguments: OnDataset) -> Measurement:
    return await measured(context, arguments, measure)


TOOL = tools.register(
    Tool(
        name="routing",
        description="Routing single calls to a cheaper model under a floor of quality, checked on held-out calls.",
        arguments=OnDataset,
        run=run,
        slow_after=None,
        summarize=lambda result: result.headline,
    )
)
