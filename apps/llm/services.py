"""Prices as an organization sees them."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet

from apps.accounts.tenancy import Principal
from apps.llm.catalogue import Catalogue, Entry, Override
from apps.llm.models import Price
from apps.llm.pricing import Provenance, Rates


def catalogue_for(*, organization_id: UUID) -> Catalogue:
    """The public catalogue with the house's prices and the organization's own on top. One query."""
    prices = Price.objects.filter(Q(organization_id=organization_id) | Q(organization=None))
    return Catalogue([_override(price) for price in prices])


def models(*, principal: Principal, now: datetime, search: str = "", provider: str = "") -> list[Entry]:
    """Every model with a known price today, the organization's own prices first; `search` is part of a name."""
    wanted = search.strip().lower()
    entries = catalogue_for(organization_id=principal.organization_id).entries(at=now)
    return [
        entry
        for entry in entries
        if wanted in f"{entry.provider}/{entry.model} {entry.name}".lower() and provider in ("", entry.provider)
    ]


# What a change of an own price may change.
PRICED = (
    "model",
    "provider",
    "input",
    "cached_read",
    "cached_write",
    "cached_write_1h",
    "output",
    "input_audio",
    "output_audio",
    "batch_multiplier",
    "flex_multiplier",
    "priority_multiplier",
    "effective_from",
    "effective_to",
    "source",
)
_CHANGES = {"+": "created", "~": "changed", "-": "deleted"}


def price_changes(*, principal: Principal) -> QuerySet[Any]:
    """The history of the prices that the organization can be charged by, its own and the house's; newest first."""
    mine = Q(organization_id=principal.organization_id) | Q(organization=None)
    changes: QuerySet[Any] = Price.history.filter(mine).select_related("history_user").order_by("-history_id")
    return changes


def as_changes(rows: Sequence[Any]) -> list[dict[str, Any]]:
    """History rows as `models/changes/` shows them, each with what it changed."""
    before = _predecessors(rows)
    return [_change(row, before.get(row.history_id)) for row in rows]


def _predecessors(rows: Sequence[Any]) -> dict[int, Any]:
    """By the id of a history row: the one before it of the same price. One query."""
    before: dict[int, Any] = {}
    latest: dict[UUID, Any] = {}
    for row in Price.history.filter(id__in={row.id for row in rows}).order_by("history_id"):
        if row.id in latest:
            before[row.history_id] = latest[row.id]
        latest[row.id] = row
    return before


def _change(row: Any, before: Any) -> dict[str, Any]:
    everybody = row.organization_id is None
    # A deletion keeps the last values; what changed is that they hold no more.
    old, new = (row, None) if row.history_type == "-" else (before, row)
    pairs = [(name, _told(old, name), _told(new, name)) for name in PRICED]
    return {
        "price": row.id,
        "model": row.model,
        "provider": row.provider,
        "everybody": everybody,
        "change": _CHANGES[row.history_type],
        "at": row.history_date,
        "by": row.history_user.email if row.history_user and not everybody else None,
        "fields": [{"field": name, "old": was, "new": now} for name, was, now in pairs if was != now],
    }


def _told(price: Any, name: str) -> str | None:
    value = getattr(price, name, None)
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    return None if value is None else str(value)


def _override(price: Price) -> Override:
    rates = Rates(
        input=price.input,
        cached_read=price.cached_read,
        cached_write=price.cached_write,
        cached_write_1h=price.cached_write_1h,
        output=price.output,
        input_audio=price.input_audio,
        output_audio=price.output_audio,
        provenance=Provenance(source=price.source, override=price.pk),
        effective_from=_start_of(price.effective_from),
        effective_to=_start_of(price.effective_to) if price.effective_to else None,
    )
    return Override(
        model=price.model,
        provider=price.provider,
        own=price.organization_id is not None,
        rates=replace(rates, service=_service(rates, price)),
    )


def _service(rates: Rates, price: Price) -> dict[str, Rates]:
    """The tiers whose multiplier is known."""
    known = {"batch": price.batch_multiplier, "flex": price.flex_multiplier, "priority": price.priority_multiplier}
    return {tier: _at_tier(rates, tier, multiplier) for tier, multiplier in known.items() if multiplier is not None}


def _at_tier(rates: Rates, tier: str, multiplier: Decimal) -> Rates:
    scaled = rates.scaled(multiplier)
    return replace(scaled, provenance=scaled.provenance and replace(scaled.provenance, tier=tier))


def _start_of(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)
