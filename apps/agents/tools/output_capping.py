"""What the longest answers cost beyond their feature's usual length: a ceiling, because quality is not measured."""

from apps.agents.artifacts import Measurement
from apps.agents.measuring import OnDataset, count, measured, missing, money, percent, saving, table, text
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Tool, tools
from apps.optimization.calls import Calls
from apps.optimization.simulators import simulate

COLUMNS = {
    "Feature": text("feature"),
    "Calls": count("calls"),
    "Cap in tokens": count("cap_tokens"),
    "Answers cut": count("truncated_calls"),
    "Saved": money("saving_usd"),
    "Reasoning costs": money("reasoning_usd"),
}


def measure(calls: Calls) -> Measurement:
    found = simulate(calls, "output_capping")
    if not found.detail:
        return Measurement(headline=found.why or "", missing=missing(*found.missing))
    return Measurement(
        headline=f"A cap per feature would cut {percent(found.detail['truncated_share'])} of the answers.",
        savings=[saving(found, how="Set max_tokens per feature, ask for short answers, lower the reasoning effort.")],
        tables=[table("Caps by feature", COLUMNS, found.detail["by_feature"])],
        missing=missing(*found.missing),
    )


async def run(context: UserExecutionContext, arguments: OnDataset) -> Measurement:
    return await measured(context, arguments, measure)


TOOL = tools.register(
    Tool(
        name="output_capping",
        description="What answers cost beyond the usual length of their feature, and what reasoning costs. A ceiling.",
        arguments=OnDataset,
        run=run,
        slow_after=None,
        summarize=lambda result: result.headline,
    )
)
