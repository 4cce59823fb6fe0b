"""Spend on calls that could have gone through a batch API."""

from apps.agents.artifacts import Measurement
from apps.agents.measuring import OnDataset, count, measured, missing, money, percent, saving, table, text
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Tool, tools
from apps.llm.amounts import spell_dollars
from apps.optimization.calls import Calls
from apps.optimization.results import Strategy
from apps.optimization.simulators import simulate

COLUMNS = {"Feature": text("feature"), "Calls": count("calls"), "Cost": money("cost_usd"), "Saved": money("saving_usd")}


def measure(calls: Calls) -> Measurement:
    found = simulate(calls, "batch_eligible")
    groups = [group for group in found.detail["by_feature"] if group["feature"] is not None]
    return Measurement(
        headline=_headline(found),
        savings=[saving(found, how="Send what nobody waits for through the provider's batch API.")],
        tables=[table("Calls that can wait, by feature", COLUMNS, groups)] if groups and not found.up_to else [],
        missing=missing(*found.missing),
    )


def _headline(found: Strategy) -> str:
    if found.saving_usd is None:
        return found.why or ""
    if found.up_to:
        return "No call says whether somebody waits for it, so what batching saves can only be bounded from above."
    if not found.detail["eligible_calls"]:
        return "No call that is billed at the standard price is known to wait for nobody."
    eligible, share = found.detail["eligible_usd"], percent(found.detail["eligible_share_of_spend"])
    return f"{spell_dollars(eligible)} ({share} of the spend) went to calls that nobody waits for."


async def run(context: UserExecutionContext, arguments: OnDataset) -> Measurement:
    return await measured(context, arguments, measure)


TOOL = tools.register(
    Tool(
        name="batch_eligible_spend",
        description="Spend on calls that can wait a day, and what the batch price would have saved on them.",
        arguments=OnDataset,
        run=run,
        slow_after=None,
        summarize=lambda result: result.headline,
    )
)
