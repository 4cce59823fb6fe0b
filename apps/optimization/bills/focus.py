"""FOCUS 1.2 and later, as CSV or Parquet: the common form of cloud bills.

Source: the FOCUS specification 1.2 (`specification/columns`), `ServiceProviderName` from 1.3. It has no columns for
language models: the model stands in `Tags` or `SkuPriceDetails` (LiteLLM writes `model` into `Tags`).
"""

import json
import re
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

from apps.optimization.bills import MOST_COUNTED, Charge, Unreadable, amount_of, bill_source, charge_in, day_of, text_of
from apps.optimization.bills import Row as BillRow
from apps.optimization.readers import Reject, Row, Table, look, open_table

TELLING = {"BilledCost", "BillingCurrency", "ChargePeriodStart", "ChargeCategory"}
NOTES = (
    "FOCUS: BilledCost is compared; days are those of ChargePeriodStart, in UTC.",
    "FOCUS: the model is read from Tags and SkuPriceDetails; rows that are no AI service and name no model are other "
    "charges.",
)
_CATEGORIES: dict[str, Charge] = {
    "tax": "tax",
    "credit": "credit",
    "purchase": "commitment",
    "adjustment": "adjustment",
}
_MODEL = ("model", "Model", "ModelName", "model_name", "x_Model", "modelId", "ModelId")
_TOKENS = re.compile(r"^\s*([\d.,]*)\s*([km]?)[\s_-]*tokens?\b", re.IGNORECASE)
_THOUSANDS = {"": 1, "k": 1000, "m": 1_000_000}


@bill_source
def focus(path: Path) -> "FocusBill | None":
    """Takes a table with the columns of cost, currency, period and category."""
    head = look(path)
    if not head.first.startswith(b"PAR1") and not all(name in head.text.partition("\n")[0] for name in TELLING):
        return None
    if head.text.lstrip()[:1] in ("{", "["):
        return None
    table = open_table(path)
    return FocusBill(table) if set(table.places) >= TELLING else None


class FocusBill:
    """Rows of a table as charges."""

    kind = "focus"
    notes = NOTES

    def __init__(self, table: Table) -> None:
        self._table = table
        self._long = 0  # rows of more than a day

    def rows(self) -> Iterator[BillRow | Reject]:
        for record in self._table.records(lambda read: None):
            if isinstance(record, Reject):
                yield record
                continue
            line, row = record
            try:
                yield self._row(line, row)
            except Unreadable as error:
                yield Reject(line=line, column=error.place, reason=error.reason)

    def assumed(self) -> Iterable[str]:
        if self._long:
            yield f"FOCUS: {self._long:,} rows cover more than one day and are counted on their first."

    def _row(self, line: int, row: Row) -> BillRow:
        day = day_of(row.get("ChargePeriodStart"), "ChargePeriodStart")
        self._long += _is_long(day, row.get("ChargePeriodEnd"))
        tags, details = _inner(row.get("Tags")), _inner(row.get("SkuPriceDetails"))
        model = next((text for name in _MODEL for said in (tags, details) if (text := text_of(said.get(name)))), None)
        charge = _charge(row, model)
        places = ("ServiceProviderName", "ProviderName", "PublisherName")
        said = [tags.get("custom_llm_provider"), *(row.get(name) for name in places)]
        return BillRow(
            day=day,
            provider=next((text for value in said if (text := text_of(value))), ""),
            model=model,
            charge=charge,
            tokens=_tokens(row),
            amount=amount_of(row.get("BilledCost"), "BilledCost"),
            currency=_currency(row),
            description=text_of(row.get("ChargeDescription")) or text_of(row.get("ServiceName")),
            line=line,
        )


def _is_long(day: date, end: str | None) -> bool:
    return bool(end) and (day_of(end, "ChargePeriodEnd") - day).days > 1


def _currency(row: Row) -> str:
    currency = text_of(row.get("BillingCurrency")).upper()
    if not currency:
        raise Unreadable("BillingCurrency", "The currency is not said.")
    return currency


def _charge(row: Row, model: str | None) -> Charge:
    if found := _CATEGORIES.get(text_of(row.get("ChargeCategory")).lower()):
        return found
    if not model and _is_elsewhere(row):
        return "other"
    words = " ".join(text_of(row.get(name)) for name in ("SkuMeter", "ChargeDescription", "PricingUnit"))
    return charge_in(words) or ("tokens" if model or _unit(row) else "other")


def _is_elsewhere(row: Row) -> bool:
    category = text_of(row.get("ServiceCategory"))
    return bool(category) and "ai" not in category.lower().split()


def _unit(row: Row) -> "re.Match[str] | None":
    return _TOKENS.match(text_of(row.get("ConsumedUnit")))


def _tokens(row: Row) -> int | None:
    """Consumed tokens, where the unit is tokens or thousands or millions of them."""
    unit, quantity = _unit(row), text_of(row.get("ConsumedQuantity"))
    if not unit or not quantity:
        return None
    each = amount_of(unit[1].replace(",", "") or 1, "ConsumedUnit") * _THOUSANDS[unit[2].lower()]
    tokens = amount_of(quantity, "ConsumedQuantity") * each
    return int(tokens) if 0 <= tokens < MOST_COUNTED else None


def _inner(text: str | None) -> dict[str, Any]:
    """The object in a JSON column; empty where it holds none."""
    try:
        value = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
