"""Anthropic: pages of `GET /v1/organizations/cost_report`.

Source of the field names: "Usage and Cost API" of Anthropic's reference. `amount` is a decimal STRING in cents:
"123.45" is 1.2345 dollars. The Priority Tier is never in this report.
"""

from collections.abc import Iterable
from pathlib import Path

from apps.optimization.bills import TOKENS, Charge, Row, amount_of, bill_source, charge_in, text_of
from apps.optimization.bills.pages import Pages, Result, pages_in

NOTES = (
    "Anthropic cost report: amounts are cents and were divided by 100.",
    "Anthropic cost report: the Priority Tier is never part of it; the model is unknown where the report was not "
    "grouped by description.",
)


@bill_source
def anthropic_cost(path: Path) -> Pages | None:
    """Takes buckets with `starting_at` whose results have an `amount`."""
    pages = pages_in(path, begins="starting_at", telling=r'"amount"\s*:')
    return (
        None
        if pages is None
        else Pages(kind="anthropic_cost", notes=NOTES, begins="starting_at", pages=pages, read=_rows)
    )


def _rows(result: Result) -> Iterable[Row]:
    description = text_of(result.at("description")[0])
    charge = _charge(text_of(result.at("cost_type")[0]), text_of(result.at("token_type")[0]), description)
    tier = text_of(result.at("service_tier")[0])
    yield Row(
        day=result.day,
        provider="anthropic",
        model=(text_of(result.at("model")[0]) or None) if charge in TOKENS else None,
        charge=charge,
        amount=amount_of(*result.at("amount"), scale=-2),
        currency=(text_of(result.at("currency")[0]) or "USD").upper(),
        description=f"{description} ({tier})" if tier and description else description or tier,
        line=result.number,
    )


def _charge(kind: str, token_type: str, description: str) -> Charge:
    if kind in ("", "tokens"):
        return charge_in(token_type) or charge_in(description) or "tokens"
    return charge_in(kind) or "other"
