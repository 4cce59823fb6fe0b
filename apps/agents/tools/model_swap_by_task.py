"""Features for which a cheaper model is proven good enough."""

from apps.agents.artifacts import Measurement
from apps.agents.measuring import OnDataset, measured, missing, money, saving, table, text
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Tool, tools
from apps.optimization.calls import Calls
from apps.optimization.simulators import simulate

COLUMNS = {
    "Feature": text("feature"),
    "Model in use": text("model"),
    "Its cost": money("cost_usd"),
    "Proven candidate": text("candidate"),
    "Saved": money("saving_usd"),
}


def measure(calls: Calls) -> Measurement:
    found = simulate(calls, "model_swap_by_task")
    if found.saving_usd is None:
        return Measurement(headline=found.why or "", missing=missing(*found.missing))
    tasks = found.detail["tasks"]
    proven = sum(task["candidate"] is not None for task in tasks)
    return Measurement(
        headline=f"For {proven} of {len(tasks)} features with paired answers, a cheaper model is proven good enough.",
        savings=[saving(found, how="Move the proven features, and keep judging a sample of the answers.")],
        tables=[table("Features with judged answers of two models", COLUMNS, tasks)],
    )


async def run(context: UserExecutionContext, arguments: OnDataset) -> Measurement:
    return await measured(context, arguments, measure)


TOOL = tools.register(
    Tool(
        name="model_swap_by_task",
        description="Per feature: the cheapest model that judged answers to the same questions prove good enough.",
        arguments=OnDataset,
        run=run,
        slow_after=None,
        summarize=lambda result: result.headline,
    )
)
