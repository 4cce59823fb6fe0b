"""What is in use already, since when, and what it did on the calls since."""

from apps.agents.artifacts import Adopted, Measurement, Table
from apps.agents.measuring import ANALYSIS_DEADLINE, OnDataset, computed
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Tool, tools
from apps.llm.amounts import UNKNOWN, spell_dollars
from apps.operations.database import in_database
from apps.optimization import advice
from apps.optimization.models import Outcome, Recommendation

NOTHING = (
    "No way to save is marked as adopted for these calls. Adopt on the Savings page what is in use and say since when: "
    "what it did is then measured on the calls since."
)
OVERLAP = "Ways to save overlap: what came of two of them may be the same dollars, so do not add them up."


def adopted(context: UserExecutionContext, arguments: OnDataset) -> list[tuple[Recommendation, Outcome | None]]:
    """What is in use of a dataset's advice, and the latest outcome of each.

    Raises:
        DatasetNotFound: the principal's organization has no such dataset.
    """
    rows = advice.list_recommendations(
        principal=context.principal, dataset_id=arguments.dataset, state=Recommendation.State.ADOPTED
    )
    return [(row, row.outcomes.order_by("to_at").last()) for row in rows]


def measure(found: list[tuple[Recommendation, Outcome | None]]) -> Measurement:
    told = [
        Adopted(strategy=row.strategy, needs=row.needs, title=row.title, remark=_remark(row, outcome))
        for row, outcome in found
    ]
    sentences = [f"{each.title}: {each.remark[0].lower()}{each.remark[1:]}" for each in told]
    return Measurement(
        headline=" ".join([*sentences, *([OVERLAP] if len(told) > 1 else [])]) if told else NOTHING,
        adopted=told,
        tables=[_table(found)] if found else [],
    )


def _since(row: Recommendation) -> str:
    return f"{row.adopted_at or row.created_at:%Y-%m-%d}"


def _remark(row: Recommendation, outcome: Outcome | None) -> str:
    if outcome is None:
        return f"In use since {_since(row)}. What it did is not measured yet: that takes calls from after that day."
    span = f"from {outcome.from_at:%Y-%m-%d} to {outcome.to_at:%Y-%m-%d}"
    return (
        f"In use since {_since(row)}. On the calls {span} it saved **{spell_dollars(outcome.realised_usd)}**"
        f"{_interval(outcome)} of the {_predicted(row, outcome)} predicted for them."
    )


def _interval(outcome: Outcome) -> str:
    if outcome.low_usd is None or outcome.high_usd is None:
        return ""
    return f" (95 % interval: {spell_dollars(outcome.low_usd)} to {spell_dollars(outcome.high_usd)})"


def _predicted(row: Recommendation, outcome: Outcome) -> str:
    return f"{'up to ' if row.detail.get('up_to') else ''}{spell_dollars(outcome.predicted_usd)}"


def _table(found: list[tuple[Recommendation, Outcome | None]]) -> Table:
    rows = [
        [
            row.title,
            _since(row),
            f"{outcome.to_at:%Y-%m-%d}" if outcome else UNKNOWN,
            _predicted(row, outcome) if outcome else UNKNOWN,
            f"{spell_dollars(outcome.realised_usd)}{_interval(outcome)}" if outcome else UNKNOWN,
        ]
        for row, outcome in found
    ]
    columns = ["Way to save", "In use since", "Measured until", "Predicted", "Saved"]
    return Table(title="What is in use, and what it did", columns=columns, rows=rows)


async def run(context: UserExecutionContext, arguments: OnDataset) -> Measurement:
    if await in_database(adopted, context, arguments):
        await computed(context, arguments.dataset, "savings")  # which measures what is adopted on the calls there are
    return measure(await in_database(adopted, context, arguments))


TOOL = tools.register(
    Tool(
        name="outcomes",
        description="What is in use of what was recommended, since when, and what it saved of what was predicted.",
        arguments=OnDataset,
        run=run,
        deadline=ANALYSIS_DEADLINE,
        slow_after=None,
        summarize=lambda result: result.headline.replace("**", ""),
    )
)
