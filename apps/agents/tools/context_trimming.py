"""What conversations cost that are sent again with every turn: a ceiling, because quality is not measured."""

from apps.agents.artifacts import Measurement
from apps.agents.measuring import OnDataset, count, measured, missing, money, saving, table, text
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Tool, tools
from apps.optimization.calls import Calls
from apps.optimization.simulators import simulate

COLUMNS = {
    "Feature": text("feature"),
    "Calls": count("calls"),
    "Tokens of history": count("history_tokens"),
    "A tenth of it costs": money("saving_usd"),
}


def measure(calls: Calls) -> Measurement:
    found = simulate(calls, "context_trimming")
    if not found.detail:
        return Measurement(headline=found.why or "", missing=missing(*found.missing))
    return Measurement(
        headline=f"{found.detail['history_tokens']:,} tokens of history were sent again.",
        savings=[saving(found, how="Leave out or sum up the oldest turns, and compare the answers on a sample.")],
        tables=[table("History by feature", COLUMNS, found.detail["by_feature"])],
        missing=missing(*found.missing),
    )


async def run(context: UserExecutionContext, arguments: OnDataset) -> Measurement:
    return await measured(context, arguments, measure)


TOOL = tools.register(
    Tool(
        name="context_trimming",
        description="What the history costs that is sent again with each turn, per tenth of it. A ceiling.",
        arguments=OnDataset,
        run=run,
        slow_after=None,
        summarize=lambda result: result.headline,
    )
)
