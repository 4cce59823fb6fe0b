"""What providers could read from their caches of prompts."""

from apps.agents.artifacts import Measurement
from apps.agents.measuring import OnDataset, measured, missing, percent, saving
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Tool, tools
from apps.optimization.calls import Calls
from apps.optimization.results import Strategy
from apps.optimization.simulators import simulate


def measure(calls: Calls) -> Measurement:
    found = simulate(calls, "prefix_cache")
    if not found.detail:
        return Measurement(headline=found.why or "", missing=missing(*found.missing))
    return Measurement(
        headline=_headline(found),
        savings=[
            saving(found, how="Put first what stays the same, and mark where it ends if the provider asks for it.")
        ],
        missing=missing(*found.missing),
    )


def _headline(found: Strategy) -> str:
    read, achieved = found.detail["read_tokens"], found.detail["read_tokens_achieved"]
    share = percent(found.detail["covered_share_of_spend"])
    return (
        f"Replayed through their caches, {read:,} input tokens would have been read from them instead of {achieved:,}, "
        f"on calls that make up {share} of the spend."
    )


async def run(context: UserExecutionContext, arguments: OnDataset) -> Measurement:
    return await measured(context, arguments, measure)


TOOL = tools.register(
    Tool(
        name="prefix_cache",
        description="What the provider's cache of prompts would have read, replayed in time order, and what it saves.",
        arguments=OnDataset,
        run=run,
        slow_after=None,
        summarize=lambda result: result.headline,
    )
)
