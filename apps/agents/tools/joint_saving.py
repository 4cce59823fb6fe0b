"""What the ways to save bring together, and what to do first: quoted from one stored analysis of all of them."""

from collections.abc import Iterator, Sequence
from decimal import Decimal

from apps.agents.artifacts import JointSaving, LeftOut, Measurement, Missing, Part, Plan, Saving, Table
from apps.agents.measuring import (
    ANALYSIS_DEADLINE,
    Wishes,
    computed,
    decimal,
    lacking,
    missing,
    percent,
    saving,
)
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Tool, tools
from apps.llm.amounts import spell_dollars
from apps.operations.database import in_database
from apps.optimization import recommendations
from apps.optimization.allowances import allowed_first
from apps.optimization.constraints import constraints
from apps.optimization.models import Recommendation, StoredAnalysis
from apps.optimization.presentation import if_allowed_line
from apps.optimization.results import Analysis, IfAllowed, Joint, Strategy
from apps.optimization.sufficiency import LACKING

STAGES = {
    "drop": "Calls that need not be made",
    "answer": "Answers that are kept",
    "route": "Cheaper models",
    "trim": "Shorter prompts and answers",
    "prefix": "The provider's cache of prompts",
    "batch": "Batches",
}
NOTHING = "No way to save is proven on these calls."


def measure(stored: StoredAnalysis) -> Measurement:
    found = Analysis.model_validate(stored.result)
    wishes = Wishes.model_validate({"dataset": stored.dataset_id, **stored.parameters})
    joint = _joint(found.joint, found.strategies).model_copy(update={"constraints": list(constraints(wishes, found))})
    return Measurement(
        headline=" ".join(_sentences(joint, None if "answers_kept" in stored.parameters else allowed_first(found))),
        savings=_savings(found, recommendations.advise(stored)),
        joint=joint,
        tables=list(_tables(joint, found.strategies)),
        missing=list(_missing(found)),
        analysis=stored.pk,
    )


def _joint(found: Joint | None, strategies: Sequence[Strategy]) -> JointSaving:
    """What takes part and what does not; where nothing does, there is no amount."""
    if found is None:
        nothing = "It saves nothing on these calls."
        return JointSaving(left_out=[LeftOut(title=each.title, why=each.why or nothing) for each in strategies])
    titles = {each.name: each.title for each in strategies}
    return JointSaving(
        saving_usd=decimal(found.saving_usd),
        low=decimal(found.low),
        high=decimal(found.high),
        interval_note=found.interval_note,
        spent_usd=decimal(found.spent_usd),
        would_cost_usd=decimal(found.would_cost_usd),
        sum_of_parts_usd=decimal(found.sum_of_parts_usd),
        overlap_usd=decimal(found.overlap_usd),
        up_to=found.up_to,
        drift=found.drift.why,
        stages=[Part(title=STAGES[name], saving_usd=decimal(usd)) for name, usd in found.stages.items()],
        shares=[Part(title=titles[name], saving_usd=decimal(usd)) for name, usd in found.shares.items()],
        left_out=[LeftOut(title=titles[each.name], why=each.why) for each in found.left_out],
    )


def _sentences(joint: JointSaving, more: IfAllowed | None) -> Iterator[str]:
    if more:
        yield if_allowed_line(more)
    if not joint.shares or joint.saving_usd is None:
        yield NOTHING
        return
    ways = "the one way to save that is" if len(joint.shares) == 1 else f"the {len(joint.shares)} ways to save that are"
    kind = "only bounded" if joint.up_to else "proven"
    amount = f"{'at most ' if joint.up_to else ''}**{spell_dollars(joint.saving_usd)}**"
    share = percent(float(Decimal(joint.saving_usd) / Decimal(joint.spent_usd))) if joint.spent_usd else "unknown"
    yield f"Together, {ways} {kind} would have saved {amount}, {share} of what these calls cost{_interval(joint)}."
    if joint.overlap_usd and Decimal(joint.overlap_usd) > 0:
        overlap, parts = spell_dollars(joint.overlap_usd), spell_dollars(joint.sum_of_parts_usd)
        yield f"One by one they would come to {parts}; {overlap} of that is overlap and not counted twice."
    if joint.interval_note:
        yield joint.interval_note


def _interval(joint: JointSaving) -> str:
    if joint.low is None or joint.high is None:
        return ""
    return f" (95 % interval: {spell_dollars(joint.low)} to {spell_dollars(joint.high)})"


def _savings(found: Analysis, advised: list[Recommendation]) -> list[Saving]:
    """Every way to save, those to recommend first and in their order; the others save nothing, or nobody knows."""
    by_rule = {(each.name, ""): each for each in found.strategies}
    by_rule |= {(each.strategy.name, each.needs): each.strategy for each in found.if_allowed}
    shares = found.joint.shares if found.joint else {}
    first = [
        saving(by_rule[row.strategy, row.needs], how=row.detail["steps"][0]).model_copy(
            update={
                "title": row.title,
                "needs": row.needs,
                "saving_usd": decimal(row.saving_usd),
                "low": decimal(row.low_usd),
                "high": decimal(row.high_usd),
                "joint_usd": None if row.needs else decimal(shares.get(row.strategy)),
                "monthly_usd": decimal(row.monthly_usd),
                "confidence": row.confidence,
                "calibrated": row.calibrated,
                "plan": Plan(**{name: row.detail[name] for name in Plan.model_fields}),
            }
        )
        for row in advised
    ]
    named = {(row.strategy, row.needs) for row in advised}
    return first + [saving(each, how="") for each in found.strategies if (each.name, "") not in named]


def _tables(joint: JointSaving, strategies: Sequence[Strategy]) -> Iterator[Table]:
    alone = {each.title: decimal(each.saving_usd) for each in strategies}
    if joint.shares:
        ways = [[part.title, spell_dollars(alone[part.title]), spell_dollars(part.saving_usd)] for part in joint.shares]
        yield Table(title="Saved together", columns=["Way to save", "Alone", "Its part"], rows=ways)
    if joint.left_out:
        left = [[each.title, each.why] for each in joint.left_out]
        yield Table(title="Takes no part in it", columns=["Way to save", "Why"], rows=left)


def _missing(found: Analysis) -> Iterator[Missing]:
    """What keeps a way to save from being computed or proven; with dollars where the spend without it is known."""
    short = [each for each in found.strategies if each.missing]
    assessed = [found.sufficiency[each.name] for each in short if each.name in found.sufficiency]
    told = lacking(lack for each in assessed for lack in each.lacks)
    yield from told
    carried = {name for name, share in found.overview.coverage.items() if share >= LACKING}
    known = carried | {item.field for item in told}
    yield from missing(*dict.fromkeys(field for each in short for field in each.missing if field not in known))


async def run(context: UserExecutionContext, arguments: Wishes) -> Measurement:
    stored = await computed(context, arguments.dataset, "savings", arguments.parameters())
    return await in_database(measure, stored)


TOOL = tools.register(
    Tool(
        name="joint_saving",
        description="What all ways to save bring together, with an interval, shares, and what is left out and why. "
        "Takes what the person allows: seconds that a feature may wait, features to keep, models to ask instead, and "
        "whether a cache may give answers to everybody, and for how long it keeps them.",
        arguments=Wishes,
        run=run,
        deadline=ANALYSIS_DEADLINE,
        slow_after=None,
        summarize=lambda result: result.headline.replace("**", ""),
    )
)
