"""OpenAI: pages of `GET /v1/organization/costs`.

Source of the field names: `types/admin/organization/usage_costs_response.py` of openai 3.52. `line_item` is null unless
the costs were asked for grouped by it; it names the model before a comma: `gpt-4o-2024-08-06, cached input`.
"""

from collections.abc import Iterable
from pathlib import Path

from apps.optimization.bills import TOKENS, Row, amount_of, bill_source, charge_in, count_of, text_of
from apps.optimization.bills.pages import Pages, Result, pages_in

NOTES = (
    "OpenAI costs: amounts are what was charged per UTC day; the model is read from line_item, "
    "and is unknown where the report was not grouped by it.",
)


@bill_source
def openai_costs(path: Path) -> Pages | None:
    """Takes buckets with `start_time` whose results have an `amount`."""
    pages = pages_in(path, begins="start_time", telling=r'"amount"\s*:\s*\{|"organization\.costs\.result"')
    return (
        None if pages is None else Pages(kind="openai_costs", notes=NOTES, begins="start_time", pages=pages, read=_rows)
    )


def _rows(result: Result) -> Iterable[Row]:
    item = text_of(result.at("line_item")[0])
    model, comma, kind = item.rpartition(",")
    charge = charge_in(kind) or "other" if item else "tokens"
    unit, quantity = text_of(result.at("quantity_unit")[0]), result.at("quantity")
    in_tokens = charge in TOKENS and "token" in unit.lower()
    yield Row(
        day=result.day,
        provider="openai",
        model=model.strip() if comma and charge in TOKENS else None,
        charge=charge,
        tokens=count_of(*quantity) if in_tokens else None,
        amount=amount_of(*result.at("amount", "value")),
        currency=(text_of(result.at("amount", "currency")[0]) or "USD").upper(),
        description=item or "costs that are not grouped by line_item",
        line=result.number,
    )
