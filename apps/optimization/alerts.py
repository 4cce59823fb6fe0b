"""The price of a model that a dataset uses has changed: noticed, kept, and told until somebody dismisses it."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from django.db import transaction

from apps.llm.catalogue import Catalogue
from apps.optimization.models import Dataset, PriceAlert, PriceWatch
from apps.optimization.prices import Change, changes, listed, rates_of
from apps.optimization.results import PricesInUse
from apps.optimization.tariffs import Key

WATCHED = 200  # prices of one dataset, the dearest use first


def watch(dataset: Dataset, found: PricesInUse, catalogue: Catalogue, now: datetime) -> None:
    """Remember the prices that a dataset's calls pay, on their last day and now."""
    prices = [
        _seen(price, catalogue, now)
        for price in (price.model_dump(mode="json", include=_KEPT) for price in found.prices[:WATCHED])
    ]
    PriceWatch.objects.update_or_create(
        dataset=dataset, defaults={"imported_at": dataset.finished_at, "prices": prices, "seen_at": now}
    )


_KEPT = {"model", "provider", "tier", "share", "last_day"}


def look(seen: PriceWatch, catalogue: Catalogue, now: datetime) -> int:
    """Compare what was seen of a dataset's prices with the catalogue; raises an alert for each rate that differs."""
    prices = [_seen(price, catalogue, now) for price in seen.prices]
    if prices == seen.prices:
        return 0
    alerts = [
        alert
        for before, after in zip(seen.prices, prices, strict=True)
        for alert in _alerts(seen.dataset, before, after, catalogue, now)
    ]
    with transaction.atomic():
        # Whoever compared them first has told of it; an import since then starts afresh.
        same = PriceWatch.objects.filter(pk=seen.pk, seen_at=seen.seen_at)
        if not same.update(prices=prices, seen_at=now):
            return 0
        PriceAlert.objects.bulk_create(alerts)
    return len(alerts)


def _seen(price: dict[str, Any], catalogue: Catalogue, now: datetime) -> dict[str, Any]:
    """A price in use with its rates on the day of the last call, and now."""
    then, current = _keys(price, now)
    return price | {"then": listed(rates_of(catalogue, then)), "now": listed(rates_of(catalogue, current))}


def _keys(price: dict[str, Any], now: datetime) -> tuple[Key, Key]:
    who = {name: price[name] for name in ("model", "provider", "tier")}
    then = datetime.fromisoformat(price["last_day"]).replace(tzinfo=None)
    # Today at the same time of day, so that a model that is cheaper by night does not seem to change.
    return Key(**who, moment=then), Key(**who, moment=datetime.combine(now.astimezone(UTC).date(), then.time()))


def _alerts(
    dataset: Dataset, before: dict[str, Any], after: dict[str, Any], catalogue: Catalogue, now: datetime
) -> Iterator[PriceAlert]:
    then, current = _keys(before, now)
    past = changes(before["then"], after["then"])
    ahead = changes(before["now"], after["now"])
    for change in dict.fromkeys((*ahead, *past)):
        rates = rates_of(catalogue, current if change in ahead else then)
        yield PriceAlert(
            organization_id=dataset.organization_id,
            dataset=dataset,
            model=before["model"],
            provider=before["provider"],
            tier=before["tier"],
            kind=change.kind,
            old=change.old,
            new=change.new,
            concerns=_concerns(change, past, ahead),
            effective_from=rates.effective_from if rates else None,
            provenance=str(rates.provenance or "")[:1000] if rates else "",
            share=before["share"],
        )


def _concerns(change: Change, past: list[Change], ahead: list[Change]) -> PriceAlert.Concerns:
    if change in past and change in ahead:
        return PriceAlert.Concerns.BOTH
    return PriceAlert.Concerns.PAST if change in past else PriceAlert.Concerns.CURRENT
