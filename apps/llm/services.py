"""Prices as an organization sees them."""

from dataclasses import replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from uuid import UUID

from django.db.models import Q

from apps.accounts.tenancy import Principal
from apps.llm.catalogue import Catalogue, Entry, Override
from apps.llm.models import Price
from apps.llm.pricing import Rates


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


def _override(price: Price) -> Override:
    rates = Rates(
        input=price.input,
        cached_read=price.cached_read,
        cached_write=price.cached_write,
        cached_write_1h=price.cached_write_1h,
        output=price.output,
        provenance=f"own price: {price.source}",
        effective_from=_start_of(price.effective_from),
        effective_to=_start_of(price.effective_to) if price.effective_to else None,
    )
    return Override(
        model=price.model,
        provider=price.provider,
        own=price.organization_id is not None,
        rates=_with_batch(rates, price.batch_multiplier),
    )


def _with_batch(rates: Rates, multiplier: Decimal | None) -> Rates:
    return rates if multiplier is None else replace(rates, batch=rates.scaled(multiplier))


def _start_of(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)
