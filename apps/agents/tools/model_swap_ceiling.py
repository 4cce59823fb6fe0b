"""What cheaper models would have cost for the same tokens: a ceiling, because quality is not measured."""

from typing import Any

from apps.agents.artifacts import Measurement, Table
from apps.agents.measuring import OnDataset, measured, missing, saving
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Tool, tools
from apps.llm.amounts import spell_dollars
from apps.optimization.calls import Calls
from apps.optimization.simulators import simulate

OFFERS = 3  # candidates shown per model
COLUMNS = ["Model in use", "Its cost", "Candidate", "It would have cost", "Up to"]


def measure(calls: Calls) -> Measurement:
    found = simulate(calls, "model_swap_ceiling")
    if found.saving_usd is None:
        return Measurement(headline=found.why or "", missing=missing(*found.missing))
    rows = [row for used in found.detail["models"] for row in _rows(used)]
    return Measurement(
        headline="Cheaper models are compared by list price only; whether they answer well enough is not measured.",
        savings=[saving(found, how="Try a candidate on a sample of your calls and compare the answers first.")],
        tables=[Table(title="The same tokens at other list prices", columns=COLUMNS, rows=rows)] if rows else [],
    )


def _rows(used: dict[str, Any]) -> list[list[str]]:
    """The same provider's candidates first: they are the smallest step."""
    offers = sorted(used["candidates"], key=lambda offer: not offer["same_provider"])
    return [
        [
            used["model"],
            spell_dollars(used["cost_usd"]),
            f"{offer['model']} ({offer['provider']})",
            spell_dollars(offer["cost_usd"]),
            spell_dollars(offer["saving_usd"]),
        ]
        for offer in offers[:OFFERS]
    ]


async def run(context: UserExecutionContext, arguments: OnDataset) -> Measurement:
    return await measured(context, arguments, measure)


TOOL = tools.register(
    Tool(
        name="model_swap_ceiling",
        description="Per model in use: what cheaper models would have cost for the same tokens. A ceiling.",
        arguments=OnDataset,
        run=run,
        slow_after=None,
        summarize=lambda result: result.headline,
    )
)
