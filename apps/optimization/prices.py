"""The prices that a dataset's calls were billed by: where each is from, how much of the spend rests on assumed ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

from apps.llm.catalogue import Catalogue
from apps.llm.pricing import KINDS, Rates, TierPriceUnknown
from apps.optimization.calls import Calls
from apps.optimization.results import PriceInUse, PricesInUse, in_dollars, part_of
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
    uses = _uses(calls)
    groups = [list(group) for _, group in groupby(uses, key=lambda use: _who(use.key))]
    found = [_price_in_use(calls.catalogue, group, _cost(uses)) for group in groups]
    return PricesInUse(
        catalogue=calls.catalogue.version,
        assumed_share=part_of(_assumed(calls.catalogue, uses), _cost(uses)),
        prices=tuple(sorted(found, key=lambda price: (price.cost_usd is None, -(price.cost_usd or 0), price.model))),
    )


def assumed_share(calls: Calls) -> float | None:
    """Share of the priced spend, 0-1, whose list does not say that its price held on the day of the call."""
    uses = _uses(calls)
    return part_of(_assumed(calls.catalogue, uses), _cost(uses))


def _uses(calls: Calls) -> list[_Use]:
    found = calls.rows(
        f"""SELECT model, coalesce(provider, ''), {tier_sql("calls")}, price_moment, count(*), sum(cost_pico)
            FROM calls WHERE billed AND model IS NOT NULL GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"""  # noqa: S608
    )
    return [
        _Use(
            key=Key(model=model, provider=provider, moment=moment, tier=tier),
            calls=count,
            cost_pico=None if cost is None else int(cost),
        )
        for model, provider, tier, moment, count, cost in found
    ]


def _cost(uses: list[_Use]) -> int | None:
    """Pico-dollars of the uses whose price is known; None where none is."""
    known = [use.cost_pico for use in uses if use.cost_pico is not None]
    return sum(known) if known else None


def _assumed(catalogue: Catalogue, uses: list[_Use]) -> int:
    return sum(use.cost_pico or 0 for use in uses if _is_assumed(catalogue, use.key))


def _who(key: Key) -> tuple[str, str, str]:
    return key.model, key.provider, key.tier


def _price_in_use(catalogue: Catalogue, uses: list[_Use], total: int | None) -> PriceInUse:
    last = uses[-1].key
    cost, paid = _cost(uses), rates_of(catalogue, last)
    return PriceInUse(
        model=last.model,
        provider=last.provider,
        tier=last.tier,
        calls=sum(use.calls for use in uses),
        cost_usd=in_dollars(cost),
        share=part_of(cost, total),
        assumed_share=part_of(_assumed(catalogue, uses), cost),
        last_day=last.at,
        rates=listed(paid),
        provenance=paid.provenance if paid else None,
        price_source=str(paid.provenance or "") if paid else None,
        effective_from=paid.effective_from if paid else None,
        effective_to=paid.effective_to if paid else None,
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
