"""What may be had for what: cost, latency and quality of every choice of ways to save."""

from apps.agents.artifacts import Measurement, Table
from apps.agents.measuring import ANALYSIS_DEADLINE, Wishes, computed, missing, percent, spelled_time
from apps.agents.tools.joint_saving import STAGES
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Tool, tools
from apps.llm.amounts import spell_dollars
from apps.optimization.allowances import taken_as_allowed
from apps.optimization.models import StoredAnalysis
from apps.optimization.scenarios import Pareto, Point

COLUMNS = ["Choice", "Cost", "95 % of answers within", "Quality kept, at least"]


def measure(stored: StoredAnalysis) -> Measurement:
    found = Pareto.model_validate(stored.result)
    best = sorted((point for point in found.points if point.best), key=lambda point: point.cost_usd or 0)
    return Measurement(
        headline=_headline(found, best),
        tables=[Table(title="Choices that no other beats", columns=COLUMNS, rows=[_row(point) for point in best])],
        notes=[*filter(None, [taken_as_allowed(stored.parameters)]), *found.assumptions],
        missing=missing(*("ended_at" for point in found.points if not point.stages and point.p95_seconds is None)),
        analysis=stored.pk,
    )


def _headline(found: Pareto, best: list[Point]) -> str:
    if not found.strategies:
        return "No way to save is proven on these calls, so there is nothing to choose between."
    cheapest = best[0]
    quality = "" if cheapest.quality is None else f", keeping at least {percent(cheapest.quality)} of the quality"
    return (
        f"Of {len(found.points)} choices of ways to save, no other beats {len(best)} in cost, latency and quality at "
        f"once. The cheapest, {_choice(cheapest)}, costs **{spell_dollars(cheapest.cost_usd)}**, with 95 % of the "
        f"answers within {spelled_time(cheapest.p95_seconds)}{quality}."
    )


def _row(point: Point) -> list[str]:
    return [_choice(point), spell_dollars(point.cost_usd), spelled_time(point.p95_seconds), percent(point.quality)]


def _choice(point: Point) -> str:
    return " + ".join(STAGES[stage].lower() for stage in point.stages) or "nothing changed"


async def run(context: UserExecutionContext, arguments: Wishes) -> Measurement:
    return measure(await computed(context, arguments.dataset, "pareto", arguments.parameters()))


TOOL = tools.register(
    Tool(
        name="pareto",
        description="Cost, latency and quality of every choice among the proven ways to save, and which none beats.",
        arguments=Wishes,
        run=run,
        deadline=ANALYSIS_DEADLINE,
        slow_after=None,
        summarize=lambda result: result.headline.replace("**", ""),
    )
)
