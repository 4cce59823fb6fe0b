"""Calls that repeat an earlier one word for word, and what a cache of answers would have saved."""

from apps.agents.artifacts import Measurement
from apps.agents.measuring import OnDataset, count, measured, missing, money, saving, table, text
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Tool, tools
from apps.optimization.calls import Calls
from apps.optimization.results import Strategy
from apps.optimization.simulators import simulate
from apps.optimization.simulators.exact_cache import life

COLUMNS = {
    "Model": text("model"),
    "Feature": text("feature"),
    "Repeats": count("repeats"),
    "Cost of the repeats": money("saving_usd"),
    "First seen in row": count("line"),
}
CHOICES = {
    "Answers are given to": lambda row: "everybody" if row["shared"] else "the same user",
    "and kept": lambda row: life(row["kept_seconds"]),
    "Repeats": count("repeats"),
    "Cost of the repeats": money("saving_usd"),
}


def measure(calls: Calls) -> Measurement:
    found = simulate(calls, "exact_cache")
    if not found.detail:
        return Measurement(headline=found.why or "", missing=missing(*found.missing))
    tops = found.detail.get("top", [])
    return Measurement(
        headline=_headline(found),
        savings=[saving(found, how="Keep answers by user, model, parameters and prompt, and look there first.")],
        tables=[
            table("What a cache of answers saves, by what it may do", CHOICES, found.detail["choices"]),
            *([table("Most repeated calls", COLUMNS, tops)] if tops else []),
        ],
        missing=missing(*found.missing),
    )


def _headline(found: Strategy) -> str:
    repeats = found.detail["repeats"]
    if repeats is None:
        return found.why or ""
    apart = "".join(
        f" {each['repeats']:,} more do so with {each['because']}, where a cache takes something away."
        for each in found.detail["apart"]
    )
    remark = f" {found.why}" if found.why else ""
    if not repeats:
        return f"No call repeats one that its user made within the hour before, word for word.{apart}{remark}"
    return f"{repeats:,} calls repeat one that their user made within the hour before, word for word.{apart}{remark}"


async def run(context: UserExecutionContext, arguments: OnDataset) -> Measurement:
    return await measured(context, arguments, measure)


TOOL = tools.register(
    Tool(
        name="exact_cache",
        description="Calls that repeat an earlier one word for word, and what a cache of answers would have saved, by "
        "how long it keeps them and whether users share it.",
        arguments=OnDataset,
        run=run,
        slow_after=None,
        summarize=lambda result: result.headline,
    )
)
