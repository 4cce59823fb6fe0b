"""What changed since last time, taken apart into volume, mix, tokens and price."""

from datetime import datetime, timedelta
from uuid import UUID

from pydantic import Field

from apps.accounts.tenancy import Principal
from apps.agents.artifacts import Measurement, Table
from apps.agents.measuring import ANALYSIS_DEADLINE, OnDataset, computed
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Tool, tools
from apps.llm.amounts import spell_dollars
from apps.operations.database import in_database
from apps.optimization import services
from apps.optimization.models import Dataset, StoredAnalysis
from apps.optimization.results import Changes, Contribution
from apps.optimization.scenarios import Periods

WEEK = timedelta(days=7)
FACTORS = {"volume": "Number of calls", "mix": "Which calls", "tokens": "Tokens per call", "price": "Price per token"}


class Compare(OnDataset):
    """The arguments: a dataset, and two periods if they are known."""

    periods: Periods | None = Field(None, description="What to compare; without them, the newest with the one before.")


def log_of(principal: Principal, dataset_id: UUID) -> tuple[datetime, datetime] | None:
    """From when to when a dataset has calls, the end excluded; None where none has a time.

    Raises:
        DatasetNotFound: the principal's organization has no such dataset.
    """
    spans = _spans(principal, dataset_id)
    return _whole(spans) if spans else None


def _whole(spans: list[tuple[datetime, datetime]]) -> tuple[datetime, datetime]:
    return min(first for first, _ in spans), max(last for _, last in spans) + timedelta(microseconds=1)


def _spans(principal: Principal, dataset_id: UUID) -> list[tuple[datetime, datetime]]:
    """The first and the last call of each file, the newest file first."""
    dataset = services.get_dataset(principal=principal, dataset_id=dataset_id)
    later = services.later_files(principal=principal, dataset_id=dataset_id).filter(state=Dataset.State.READY)
    spans = [(file.first_call_at, file.last_call_at) for file in (*later, dataset)]
    return [(first, last) for first, last in spans if first and last]


def latest_periods(principal: Principal, dataset_id: UUID) -> Periods | None:
    """What to compare: what the newest file brought and as long before it; in one file, its last week and the one
    before, or its halves where it is shorter. None where too few calls have a time.

    Raises:
        DatasetNotFound: the principal's organization has no such dataset.
    """
    spans = _spans(principal, dataset_id)
    if not spans:
        return None
    start, end = _whole(spans)
    earlier = [last for _, last in spans[1:]]
    since = max(earlier) if earlier else max(end - WEEK, start + (end - start) / 2)
    if not start < since < end:
        return None
    length = min(end - since, since - start)
    return Periods(before_from=since - length, before_until=since, after_from=since, after_until=since + length)


def measure(stored: StoredAnalysis) -> Measurement:
    found, periods = Changes.model_validate(stored.result), Periods.model_validate(stored.parameters)
    return Measurement(
        headline=_headline(found, periods),
        tables=[_factors(found), _contributions(found)] if found.contributions else [],
        analysis=stored.pk,
    )


def _headline(found: Changes, periods: Periods) -> str:
    before = _spelled(periods.before_from, periods.before_until)
    after = _spelled(periods.after_from, periods.after_until)
    way = "more" if found.change_usd > 0 else "less"
    change = f"**{spell_dollars(abs(found.change_usd))}** {way} than" if found.change_usd else "as much as"
    costs = f"From {after}, calls cost {spell_dollars(found.after_usd)}"
    return " ".join(filter(None, (f"{costs}, {change} {spell_dollars(found.before_usd)} from {before}.", found.cause)))


def _spelled(start: datetime, end: datetime) -> str:
    return f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"


def _factors(found: Changes) -> Table:
    rows = [[FACTORS[name], spell_dollars(usd)] for name, usd in found.factors.items()]
    return Table(title="What the difference is made of", columns=["Factor", "Difference"], rows=rows)


def _contributions(found: Changes) -> Table:
    rows = [[FACTORS[each.factor], *_who(each), spell_dollars(each.usd)] for each in found.contributions]
    return Table(title="The largest parts", columns=["Factor", "Feature", "Model", "Tokens", "Difference"], rows=rows)


def _who(each: Contribution) -> tuple[str, str, str]:
    return each.feature or "(every)", each.model or "(every)", each.tokens or "(every)"


async def run(context: UserExecutionContext, arguments: Compare) -> Measurement:
    periods = arguments.periods or await in_database(latest_periods, context.principal, arguments.dataset)
    if periods is None:
        return Measurement(headline="Too few calls have a time, so nothing can be compared.")
    stored = await computed(context, arguments.dataset, "changes", periods.model_dump(mode="json"))
    return measure(stored)


TOOL = tools.register(
    Tool(
        name="changes",
        description="What changed since the last file, else since last week, or between two periods, by volume, mix, "
        "tokens and price.",
        arguments=Compare,
        run=run,
        deadline=ANALYSIS_DEADLINE,
        slow_after=None,
        summarize=lambda result: result.headline.replace("**", ""),
    )
)
