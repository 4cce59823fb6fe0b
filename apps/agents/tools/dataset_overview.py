"""What a dataset holds, what it cost, and how complete it is."""

from collections.abc import Iterator

from apps.agents.artifacts import Measurement, Table
from apps.agents.measuring import OnDataset, decimal, lacking, measured, percent
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Tool, tools
from apps.llm.amounts import spell_dollars
from apps.optimization.calls import Calls
from apps.optimization.overview import overview
from apps.optimization.results import Overview
from apps.optimization.sufficiency import sufficiency


def measure(calls: Calls) -> Measurement:
    whole = overview(calls)
    lacks = [lack for found in sufficiency(calls).values() for lack in found.lacks]
    return Measurement(
        headline=" ".join(_sentences(whole)),
        spend_usd=decimal(whole.cost_usd),
        tables=[_completeness(whole)],
        missing=lacking(lacks),
        notes=list(whole.assumptions),
    )


def _sentences(whole: Overview) -> list[str]:
    return [_bill(whole), *_unpriced(whole), *_recorded(whole)]


def _bill(whole: Overview) -> str:
    tokens = f"{whole.tokens.input:,} tokens in and {whole.tokens.output:,} out"
    calls = f"{whole.calls:,} calls{_period(whole)}"
    if whole.cost_usd is None:
        return f"Your {calls} took {tokens}; what they cost is not known."
    return f"Your {calls} cost **{spell_dollars(whole.cost_usd)}** at list prices, for {tokens}."


def _period(whole: Overview) -> str:
    if whole.first_call_at is None or whole.last_call_at is None:
        return ""
    return f" from {whole.first_call_at:%Y-%m-%d %H:%M} to {whole.last_call_at:%Y-%m-%d %H:%M} UTC"


def _unpriced(whole: Overview) -> Iterator[str]:
    if whole.unpriced_calls:
        part = f"{whole.unpriced_calls:,} calls ({percent(whole.unpriced_share)} of the tokens)"
        yield f"{part} have no known price: {', '.join(whole.unpriced_models[:5])}."


def _recorded(whole: Overview) -> Iterator[str]:
    if whole.recorded_cost_usd is not None and whole.computed_on_recorded_usd is not None:
        log, own = spell_dollars(whole.recorded_cost_usd), spell_dollars(whole.computed_on_recorded_usd)
        yield f"Your log says {log} for the {whole.recorded_on:,} calls that carry a cost; from tokens it is {own}."


def _completeness(whole: Overview) -> Table:
    rows = [[name.replace("_", " "), percent(share)] for name, share in whole.coverage.items()]
    of = "spend" if whole.cost_usd else "calls"
    return Table(title="How complete the data is", columns=["Field", f"Share of {of} that carries it"], rows=rows)


async def run(context: UserExecutionContext, arguments: OnDataset) -> Measurement:
    return await measured(context, arguments, measure)


TOOL = tools.register(
    Tool(
        name="dataset_overview",
        description="What a dataset holds: calls, tokens, cost, period, and how complete each field is.",
        arguments=OnDataset,
        run=run,
        slow_after=None,
        summarize=lambda result: result.headline.replace("**", ""),
    )
)
