"""What the next weeks cost, if the workload goes on as it did."""

from apps.agents.artifacts import Chart, Measurement, Point
from apps.agents.measuring import ANALYSIS_DEADLINE, OnDataset, computed
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Tool, tools
from apps.llm.amounts import spell_dollars
from apps.optimization.models import StoredAnalysis
from apps.optimization.results import Analysis, Forecast


def measure(stored: StoredAnalysis) -> Measurement:
    found = Analysis.model_validate(stored.result).forecast
    points = [Point(label=f"{each.day:%Y-%m-%d}", value=float(each.usd)) for each in found.by_day]
    return Measurement(
        headline=_headline(found),
        charts=[Chart(title="Forecast of spend by day", kind="line", unit="USD", points=points)] if points else [],
        analysis=stored.pk,
    )


def _headline(found: Forecast) -> str:
    if found.usd is None:
        return f"The next {found.days} days cannot be forecast: {found.why}"
    between = ""
    if found.low is not None and found.high is not None:
        level = f"{100 * (found.level or 0):.0f} % interval"
        between = f" ({level}: {spell_dollars(found.low)} to {spell_dollars(found.high)})"
    errors = ""
    if found.better_error_usd is not None and found.baseline_error_usd is not None:
        errors = (
            f" On days it had not seen, a better model missed totals by {spell_dollars(found.better_error_usd)} a day, "
            f"and repeating the week before by {spell_dollars(found.baseline_error_usd)}; {found.model} was used."
        )
    return (
        f"If use goes on as it did, the next {found.days} days cost **{spell_dollars(found.usd)}**{between}. "
        f"{found.why or ''}{errors}"
    )


async def run(context: UserExecutionContext, arguments: OnDataset) -> Measurement:
    return measure(await computed(context, arguments.dataset, "savings"))


TOOL = tools.register(
    Tool(
        name="forecast",
        description="What the next four weeks cost if the workload goes on as it did, with an interval.",
        arguments=OnDataset,
        run=run,
        deadline=ANALYSIS_DEADLINE,
        slow_after=None,
        summarize=lambda result: result.headline.replace("**", ""),
    )
)
