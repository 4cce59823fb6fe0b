"""The prices that a dataset's calls were billed by: where each is from, how much of the spend rests on assumed ones."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from apps.llm.catalogue import Catalogue
from apps.llm.pricing import KINDS, Rates, TierPriceUnknown
from apps.optimization.calls import Calls
from apps.optimization.overview import known_cost, part_of, spend
from apps.optimization.results import PriceInUse, PricesInUse, in_dollars
from apps.optimization.tariffs import Key, tier_sql

Listed = Mapping[str, str]  # kind of tokens -> dollars per 1,000,000 tokens; empty where no price is known


@dataclass(frozen=True, kw_only=True)
class Change:
    """One rate of one model is another than it was."""

    kind: str
    old: str | None  # dollars per 1,000,000 tokens; None: it was not known
    new: str | None


@dataclass(frozen=True, kw_only=True)
class _Use:
    """What calls of one key cost."""

    key: Key
    calls: int
    cost_pico: int | None


def prices_in_use(calls: Calls) -> PricesInUse:
    """Every price that billed calls pay, the dearest use first; a call's price is that of its own day."""
    total = spend(calls)
    groups = [list(group) for _, group in groupby(_uses(calls), key=lambda use: _who(use.key))]
    found = [_price_in_use(calls.catalogue, group, total) for group in groups]
    assumed = [use for group in groups for use in group if _is_assumed(calls.catalogue, use.key)]
    return PricesInUse(
        catalogue=calls.catalogue.version,
        assumed_share=part_of(sum(use.cost_pico or 0 for use in assumed), total),
        prices=tuple(sorted(found, key=lambda price: (price.cost_usd is None, -(price.cost_usd or 0), price.model))),
    )


def _uses(calls: Calls) -> Iterator[_Use]:
    found = calls.rows(
        f"""SELECT model, coalesce(provider, ''), {tier_sql("calls")}, price_moment, count(*), sum(cost_pico)
            FROM calls WHERE billed AND model IS NOT NULL GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"""  # noqa: S608
    )
    for model, provider, tier, moment, count, cost in found:
        key = Key(model=model, provider=provider, moment=moment, tier=tier)
        yield _Use(key=key, calls=count, cost_pico=known_cost(count, cost))


def _who(key: Key) -> tuple[str, str, str]:
    return key.model, key.provider, key.tier


def _price_in_use(catalogue: Catalogue, uses: list[_Use], total: int | None) -> PriceInUse:
    last = uses[-1].key
    costs = [use.cost_pico for use in uses if use.cost_pico is not None]
    cost = sum(costs) if costs else None
    paid = rates_of(catalogue, last)
    assumed = sum(use.cost_pico or 0 for use in uses if _is_assumed(catalogue, use.key))
    return PriceInUse(
        model=last.model,
        provider=last.provider,
        tier=last.tier,
        calls=sum(use.calls for use in uses),
        cost_usd=in_dollars(cost),
        share=part_of(cost, total),
        assumed_share=part_of(assumed, cost),
        last_day=last.at,
        rates=listed(paid),
        provenance=str(paid.provenance or "") if paid else None,
    )


def _is_assumed(catalogue: Catalogue, key: Key) -> bool:
    paid = rates_of(catalogue, key)
    return bool(paid and paid.provenance and paid.provenance.assumed)


def rates_of(catalogue: Catalogue, key: Key) -> Rates | None:
    """The rates of a key in its service tier; None where no price is known."""
    rates = catalogue.rates(model=key.model, provider=key.provider, at=key.at)
    try:
        return rates and rates.at_tier(key.tier)
    except TierPriceUnknown:
        return None


def listed(rates: Rates | None) -> dict[str, str]:
    """Every rate that calls pay by its name, and nothing else: equal exactly where every call costs the same.

    >>> from decimal import Decimal
    >>> listed(Rates(input=Decimal("2.50"), output=Decimal(10)))["cached_read"]
    '2.5'
    """
    if rates is None:
        return {}
    steps = [("", rates), *((f" above {tier.above:,} tokens", tier) for tier in rates.tiers)]
    named = {f"{kind}{size}": f"{step.rate(kind).normalize():f}" for size, step in steps for kind in KINDS}
    return named | ({"fee": f"{rates.fee.normalize():f}"} if rates.fee else {})


def changes(before: Listed, after: Listed) -> list[Change]:
    """What differs between two lists of rates, the kinds in their order."""
    return [
        Change(kind=kind, old=before.get(kind), new=after.get(kind))
        for kind in dict.fromkeys((*before, *after))
        if before.get(kind) != after.get(kind)
    ]
