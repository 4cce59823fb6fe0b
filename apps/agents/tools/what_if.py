"""What it would cost with more calls, other models and slower answers."""

from collections.abc import Iterator
from uuid import UUID

from pydantic import Field

from apps.agents.artifacts import Measurement, Table
from apps.agents.measuring import (
    ANALYSIS_DEADLINE,
    computed,
    count,
    missing,
    money,
    spelled_time,
    table,
    text,
)
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Tool, tools
from apps.llm.amounts import spell_dollars
from apps.optimization.allowances import taken_as_allowed
from apps.optimization.models import StoredAnalysis
from apps.optimization.scenarios import Move, Moved, Promise, Scenario, WhatIf
from apps.optimization.waits import spelled_wait

COLUMNS = {
    "Feature": text("feature"),
    "Model now": text("model"),
    "Moved to": text("to"),
    "Calls": count("calls"),
    "They cost": money("cost_usd"),
    "They would cost": money("would_cost_usd"),
    "At least": money("low_usd"),
    "At most": money("high_usd"),
}


class Supposed(Scenario):
    """The arguments: a dataset, and what is supposed of it."""

    dataset: UUID = Field(description="Id of the dataset to measure.")


def measure(stored: StoredAnalysis) -> Measurement:
    found, asked = WhatIf.model_validate(stored.result), Scenario.model_validate(stored.parameters)
    moves = [move.model_dump() | move.move.model_dump() for move in found.moves]
    return Measurement(
        headline=" ".join(_sentences(found, asked)),
        tables=[*([table("Moves", COLUMNS, moves)] if moves else []), *_promises(found)],
        notes=[
            *filter(None, [taken_as_allowed(stored.parameters)]),
            *(found.assumptions if asked.growth or moves else ()),
        ],
        missing=missing(*{"ended_at" for each in found.promises if each.keeps is None and each.calls != 0}),
        analysis=stored.pk,
    )


def _sentences(found: WhatIf, asked: Scenario) -> Iterator[str]:
    if found.spent_usd is None:
        yield "No call has a known price, so nothing can be said of what it would cost."
        return
    if asked.growth:
        many = f"{abs(100 * asked.growth):g} % {'more' if asked.growth > 0 else 'fewer'}"
        yield (
            f"With {many} calls of the same kind, what cost {spell_dollars(found.spent_usd)} would cost "
            f"**{spell_dollars(found.grown_usd)}**."
        )
    yield from (_moved(move) for move in found.moves)
    moved = any(move.would_cost_usd is not None for move in found.moves)
    if moved:
        yield f"All calls together would cost **{spell_dollars(found.moved_usd)}**."
    if (asked.growth or moved) and found.joint and found.saved_usd is not None:
        beside = " beside that" if moved else ""
        yield f"With the ways to save that are proven{beside} these calls would cost {spell_dollars(found.saved_usd)}."
    if asked.growth and found.forecast_usd is not None:
        amount = f"{spell_dollars(found.forecast_usd)}{_between(found)}"
        yield f"The next {found.forecast_days} days would cost {amount}, without any of them."
    yield from map(_kept, found.promises)
    if not (asked.growth or found.moves or found.promises):
        yield f"Nothing is supposed, so it stays at {spell_dollars(found.spent_usd)}: say what grows or moves."


def _between(found: WhatIf) -> str:
    if found.forecast_low is None or found.forecast_high is None:
        return ""
    return f" ({spell_dollars(found.forecast_low)} to {spell_dollars(found.forecast_high)})"


def _moved(found: Moved) -> str:
    if found.would_cost_usd is None:
        return f"{_named(found.move)} cannot be told: {found.why}"
    return (
        f"{_named(found.move)} takes {found.calls:,} calls from {spell_dollars(found.cost_usd)} to "
        f"{spell_dollars(found.would_cost_usd)} ({spell_dollars(found.low_usd)} to {spell_dollars(found.high_usd)}, as "
        "the same text is fewer or more tokens there); whether it answers well enough is not measured."
    )


def _named(move: Move) -> str:
    return " ".join(
        ("Moving", move.feature or "every call", *(("from", move.model) if move.model else ()), "to", move.to)
    )


def _kept(promise: Promise) -> str:
    limit = spelled_wait(round(1000 * promise.limit_seconds))
    if promise.calls == 0:
        return f"No call is of feature {promise.feature}, so nothing is known of its times."
    if promise.keeps is None:
        return f"No answer of {promise.feature} has a time in this log, so whether it keeps to {limit} is not known."
    keeps = "keeps" if promise.keeps else "does not keep"
    return f"Today {promise.feature} {keeps} to {limit}: 95 % of its answers come within {spelled_time(promise.p95)}."


def _promises(found: WhatIf) -> Iterator[Table]:
    if found.promises:
        rows = [
            [each.feature, spelled_time(each.limit_seconds), spelled_time(each.p50), spelled_time(each.p95)]
            for each in found.promises
        ]
        columns = ["Feature", "Limit", "Half of the answers within", "95 % of them within"]
        yield Table(title="Times to keep", columns=columns, rows=rows)


async def run(context: UserExecutionContext, arguments: Supposed) -> Measurement:
    asked = arguments.model_dump(mode="json", exclude={"dataset"}, exclude_defaults=True)
    return measure(await computed(context, arguments.dataset, "what_if", asked))


TOOL = tools.register(
    Tool(
        name="what_if",
        description="What the calls would cost with `growth` (0.5: half as many more), with `moves` of features or "
        "models to another model, and whether features keep to a time (`within`, seconds).",
        arguments=Supposed,
        run=run,
        deadline=ANALYSIS_DEADLINE,
        slow_after=None,
        summarize=lambda result: result.headline.replace("**", ""),
    )
)
