"""The calls beside the bill: what of it they explain, and why the rest differs."""

from collections.abc import Iterator, Sequence
from decimal import Decimal

from apps.agents.artifacts import Measurement, Table
from apps.agents.measuring import ANALYSIS_DEADLINE, OnDataset, bills, computed, missing, percent, which_bill
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Tool, tools
from apps.operations.database import in_database
from apps.optimization.models import Dataset, StoredAnalysis
from apps.optimization.reconciliation import Compared, Difference, Reconciliation, spelled

SHOWN = 31  # days of a table


def measure(stored: StoredAnalysis, brought: Sequence[Dataset]) -> Measurement:
    found = Reconciliation.model_validate(stored.result)
    return Measurement(
        headline=" ".join([*_sentences(found, brought[0].name), *which_bill(brought)]),
        tables=list(_tables(found)),
        notes=list(found.assumptions),
        analysis=stored.pk,
    )


def _sentences(found: Reconciliation, bill_name: str) -> Iterator[str]:
    billed, captured = spelled(found.billed, found.unit), spelled(found.captured, found.unit)
    yield f"{bill_name} bills **{billed}**, and your calls come to **{captured}**."
    if found.rate is not None:
        yield f"On the days and models that both name, the calls explain {percent(found.rate)} of the bill."
    yield from (each.sentence for each in sorted(found.differences, key=_weight))


def _weight(each: Difference) -> tuple[bool, Decimal]:
    """What the bill lacks first, which may be behind all others; then the largest amount."""
    return each.cause != "incomplete_bill", -abs(each.amount)


def _tables(found: Reconciliation) -> Iterator[Table]:
    for name, rows in (("Model", found.by_model), ("Day", found.by_day[-SHOWN:])):
        if rows:
            cells = [_row(found, each) for each in rows]
            yield Table(
                title=f"Bill and calls by {name.lower()}", columns=[name, "Billed", "Calls", "Explained"], rows=cells
            )
    if found.rejects:
        unread = [[str(each.line), each.column or "(the whole row)", each.reason] for each in found.rejects]
        yield Table(title="Rows of the bill that could not be read", columns=["Row", "Place", "Why"], rows=unread)


def _row(found: Reconciliation, each: Compared) -> list[str]:
    amounts: tuple[Decimal, Decimal] = (each.billed, each.captured)
    return [each.key or "(not given)", *(spelled(amount, found.unit) for amount in amounts), percent(each.rate)]


async def run(context: UserExecutionContext, arguments: OnDataset) -> Measurement:
    brought = await in_database(bills, context.principal)
    if not brought:
        return Measurement(headline="No bill has been brought to lay beside the calls.", missing=missing("bill"))
    stored = await computed(context, arguments.dataset, "reconciliation", {"bill": str(brought[0].pk)})
    return measure(stored, brought)


TOOL = tools.register(
    Tool(
        name="reconciliation",
        description="The calls beside the newest bill: how much of it they explain, and every difference by its name.",
        arguments=OnDataset,
        run=run,
        deadline=ANALYSIS_DEADLINE,
        slow_after=None,
        summarize=lambda result: result.headline.replace("**", ""),
    )
)
