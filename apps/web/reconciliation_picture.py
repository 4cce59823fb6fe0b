"""A bill beside the calls, as the page shows it."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from apps.optimization.reconciliation import Compared, Reconciliation, spelled
from apps.web.templatetags.web import percent

NOT_SAID = "(not said)"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What the page shows; tables in the shape that reports use."""

    facts: tuple[tuple[str, str], ...]
    differences: tuple[tuple[str, str], ...]  # amount, sentence
    tables: tuple[dict[str, Any], ...]
    assumptions: tuple[str, ...]


def draw(found: Reconciliation) -> Picture:
    """In the unit of the bill: its dollars are not converted, because a bill is compared as it is."""

    def said(amount: Decimal) -> str:
        return spelled(amount, found.unit)

    def table(title: str, rows: Iterable[Compared]) -> dict[str, Any]:
        cells = [[row.key or NOT_SAID, said(row.billed), said(row.captured), percent(row.rate)] for row in rows]
        return {
            "title": f"By {title.lower()}",
            "columns": [title, "Billed", "Captured", "Share captured"],
            "rows": cells,
        }

    return Picture(
        facts=(
            ("Billed", said(found.billed)),
            ("Captured in calls", said(found.captured)),
            ("Captured of token charges, on days and models of both", percent(found.rate)),
        ),
        differences=tuple((said(each.amount), each.sentence) for each in found.differences),
        tables=(table("Day", found.by_day), table("Model", found.by_model)),
        assumptions=found.assumptions,
    )
