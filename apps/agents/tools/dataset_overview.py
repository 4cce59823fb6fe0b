"""What a dataset holds, what it cost, and how complete it is."""

from apps.agents.artifacts import Measurement, Table
from apps.agents.composing import dollars
from apps.agents.measuring import OnDataset, decimal, measured, missing, percent
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Tool, tools
from apps.optimization.calls import Calls
from apps.optimization.overview import overview
from apps.optimization.results import Overview
from apps.optimization.sufficiency import sufficiency


def measure(calls: Calls) -> Measurement:
    whole = overview(calls)
    lacking = {field: None for found in sufficiency(calls).values() for field in found.missing}
    names = {"prompt_hash": "prompt", "delay": "interactive"}
    return Measurement(
        headline=" ".join(_sentences(whole)),
        spend_usd=decimal(whole.cost_usd),
        tables=[_completeness(whole)],
        missing=missing(*(names.get(field, field) for field in lacking)),
    )


def _sentences(whole: Overview) -> list[str]:
    period = (
        f" from {whole.first_call_at:%Y-%m-%d %H:%M} to {whole.last_call_at:%Y-%m-%d %H:%M} UTC"
        if (whole.first_call_at and whole.last_call_at)
        else ""
    )
    said = [
        f"Your {whole.calls:,} calls{period} cost **{dollars(str(whole.cost_usd))}** at list prices, for "
        f"{whole.tokens.input:,} tokens in and {whole.tokens.output:,} out."
    ]
    if whole.unpriced_calls:
        models = ", ".join(whole.unpriced_models[:5])
        said.append(
            f"{whole.unpriced_calls:,} calls ({percent(whole.unpriced_share)} of the tokens) have no known price and "
            f"are not in that sum: {models}."
        )
    if whole.recorded_cost_usd is not None and whole.computed_on_recorded_usd is not None:
        said.append(
            f"Your log says {dollars(str(whole.recorded_cost_usd))} for the {whole.recorded_on:,} calls that carry a "
            f"cost; computed from tokens they come to {dollars(str(whole.computed_on_recorded_usd))}."
        )
    return [*said, *whole.assumptions]


def _completeness(whole: Overview) -> Table:
    rows = [[name.replace("_", " "), percent(share)] for name, share in whole.coverage.items()]
    return Table(title="How complete the data is", columns=["Field", "Share of spend that carries it"], rows=rows)


async def run(context: UserExecutionContext, arguments: OnDataset) -> Measurement:
    return await measured(context, arguments, measure)


TOOL = tools.register(
    Tool(
        name="dataset_overview",
        description="What a dataset holds: calls, tokens, cost, period, and how complete each field is.",
        arguments=OnDataset,
        run=run,
        summarize=lambda result: result.headline.replace("**", ""),
    )
)
