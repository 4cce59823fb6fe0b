"""Which rates a model had at a moment: the public catalogue, overridden by the house's own effective-dated prices.

The catalogue is the one bundled with `genai-prices`; nothing is fetched. A model it does not know has no rates: its
cost is unknown, never zero.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import cache
from importlib.metadata import version

from genai_prices.data_snapshot import DataSnapshot, get_snapshot
from genai_prices.types import (
    ModelInfo,
    ModelPrice,
    PriceVariant,
    Provider,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)

from apps.llm.pricing import Rates, Tier

VERSION = f"genai-prices {version('genai-prices')}"
NOTHING = Decimal(0)  # an embedding has no output to charge for
BATCH = {"processing": "batch"}

# How gateways spell providers, and the catalogue's name for them. Anything else keeps its own name.
PROVIDERS = {
    "anthropic": "anthropic",
    "azure": "azure",
    "azure_ai": "azure",
    "azure_openai": "azure",
    "bedrock": "aws",
    "bedrock_converse": "aws",
    "aws_bedrock": "aws",
    "cerebras": "cerebras",
    "cohere": "cohere",
    "cohere_chat": "cohere",
    "deepseek": "deepseek",
    "fireworks_ai": "fireworks",
    "gemini": "google",
    "google": "google",
    "groq": "groq",
    "mistral": "mistral",
    "mistralai": "mistral",
    "moonshot": "moonshotai",
    "openai": "openai",
    "openrouter": "openrouter",
    "perplexity": "perplexity",
    "text-completion-openai": "openai",
    "together_ai": "together",
    "vertex_ai": "google",
    "vertex_ai_beta": "google",
    "voyage": "voyageai",
    "xai": "x-ai",
}
_AWS_REGION = re.compile(r"^[a-z]{2}(-[a-z]+)+-\d/")
_PER_TOKEN = {
    "input": "input_mtok",
    "cached_read": "cache_read_mtok",
    "cached_write": "cache_write_mtok",
    "cached_write_1h": "cache_write_1h_mtok",
    "output": "output_mtok",
}


@dataclass(frozen=True, kw_only=True)
class Override:
    """A price that the house knows better. It holds from `rates.effective_from` until before `rates.effective_to`."""

    model: str
    rates: Rates
    provider: str = ""  # any provider
    own: bool = False  # the organization's own, which wins over one for everybody

    def holds(self, *, model: str, provider: str, at: datetime) -> bool:
        """Whether this prices a call of `model` at `at`."""
        started = self.rates.effective_from is None or self.rates.effective_from <= at
        ended = self.rates.effective_to is not None and self.rates.effective_to <= at
        named = self.model.lower() == model.lower() and self.provider.lower() in ("", provider.lower())
        return named and started and not ended


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model of the catalogue with the rates of a moment."""

    provider: str
    model: str
    name: str
    rates: Rates
    context_window: int | None  # tokens, None where unknown


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A model by the catalogue's names."""

    provider: str
    model: str
    context_window: int | None  # tokens, None where unknown


class Catalogue:
    """Rates by model, provider and moment. Pure values in, pure values out; reading it twice costs one look-up."""

    def __init__(self, overrides: Sequence[Override] = (), *, today: date | None = None) -> None:
        # Until when the list's announcements count as known; None: today.
        self._today = today or datetime.now(UTC).date()
        self._overrides = tuple(sorted(overrides, key=_precedence, reverse=True))
        # Changes whenever a price does, so that a dataset knows what it was priced with.
        self.version = f"{VERSION} + {len(self._overrides)} own" if self._overrides else VERSION

    def rates(self, *, model: str, provider: str = "", at: datetime) -> Rates | None:
        """The rates of `model` for a call at `at` (aware); None where the price is unknown."""
        for override in self._overrides:
            if override.holds(model=model, provider=provider, at=at):
                return override.rates
        found = _find(model, provider)
        return _rates(found, at, self._today) if found else None

    def priced_by_time_of_day(self, *, model: str, provider: str = "") -> bool:
        """Whether the rates change within a day (on the half hour), so that a day is too coarse a key."""
        found = _find(model, provider)
        prices = found.model.prices if found else []
        return isinstance(prices, list) and any(isinstance(p.constraint, TimeOfDateConstraint) for p in prices)

    def identify(self, *, model: str, provider: str = "") -> Identity | None:
        """Who offers `model` and what it can hold, as the public catalogue names it; None where it does not know."""
        found = _find(model, provider)
        if found is None:
            return None
        return Identity(
            provider=found.provider.id, model=found.model.id, context_window=found.model.context_window or None
        )

    def entries(self, *, at: datetime) -> Iterator[Entry]:
        """Every model that is priced per token, with its rates at `at`; the house's own prices first."""
        for override in self._overrides:
            if override.holds(model=override.model, provider=override.provider, at=at):
                yield Entry(
                    provider=override.provider,
                    model=override.model,
                    name=override.model,
                    rates=override.rates,
                    context_window=None,
                )
        yield from _entries_on(at.astimezone(UTC).date())


@dataclass(frozen=True)
class _Found:
    provider: Provider
    model: ModelInfo


def _precedence(override: Override) -> tuple[bool, bool, float]:
    starts = override.rates.effective_from
    return override.own, bool(override.provider), starts.timestamp() if starts else 0.0


@cache
def _snapshot() -> DataSnapshot:
    return get_snapshot()


@cache
def _find(model: str, provider: str) -> _Found | None:
    for name, place in _readings(model.strip(), provider.strip()):
        try:
            return _Found(*_snapshot().find_provider_model(name, None, place, None))
        except LookupError:
            continue
    return None


def _readings(model: str, provider: str) -> Iterator[tuple[str, str | None]]:
    """Ways to read a model's name, the most literal first. A provider that is named is never overruled."""
    prefix, _, rest = model.partition("/")
    prefixed = PROVIDERS.get(prefix.lower()) if rest else None
    place = PROVIDERS.get(provider.lower(), provider or None)
    if place is not None:
        yield model, place
    if prefixed is not None and place in (None, prefixed):
        yield _AWS_REGION.sub("", rest), prefixed
    if place is None and prefixed is None:
        yield model, None


def _rates(found: _Found, at: datetime, today: date) -> Rates | None:
    provenance = f"{VERSION}: {found.provider.id}/{found.model.id}"
    rates = _from_listed(found.model.get_prices(at), provenance)
    return rates and replace(rates, batch=_batch_rates(found, at, today, rates))


def _batch_rates(found: _Found, at: datetime, today: date, standard: Rates) -> Rates | None:
    """The batch prices at `at`; before their first listing those of that day, if the standard price was the same."""
    # The catalogue lends other houses' models to a provider, but not their batch prices.
    lends = not any(found.model is own for own in found.provider.models)
    starts = [_start(v) for v in found.model.price_variants or () if v.when == BATCH and not lends]
    if any(start <= at.date() for start in starts):
        return _from_listed(found.model.get_prices(at, BATCH), f"{standard.provenance}, batch")
    first = min((start for start in starts if start <= today), default=None)
    if first is None:
        return None
    listed = datetime.combine(first, time(), tzinfo=UTC)
    if _from_listed(found.model.get_prices(listed), standard.provenance) != standard:
        return None
    return _from_listed(
        found.model.get_prices(listed, BATCH), f"{standard.provenance}, batch as first listed on {first}"
    )


def _start(variant: PriceVariant) -> date:
    return variant.constraint.start_date if isinstance(variant.constraint, StartDateConstraint) else date.min


def _from_listed(listed: ModelPrice, provenance: str) -> Rates | None:
    """The listed prices per token; None where the model is not priced per token of input."""
    prices = {kind: getattr(listed, key) for kind, key in _PER_TOKEN.items()}
    starts = sorted({t.start for p in prices.values() if isinstance(p, TieredPrices) for t in p.tiers})
    base = _at_size(prices, -1)
    if base["input"] is None:
        return None
    return Rates(
        input=base["input"],
        cached_read=base["cached_read"],
        cached_write=base["cached_write"],
        cached_write_1h=base["cached_write_1h"],
        output=base["output"] or NOTHING,
        tiers=tuple(_tier(_at_size(prices, start), start) for start in starts),
        provenance=provenance,
    )


def _tier(rates: Mapping[str, Decimal | None], above: int) -> Tier:
    return Tier(
        above=above,
        input=rates["input"] or NOTHING,
        cached_read=rates["cached_read"],
        cached_write=rates["cached_write"],
        cached_write_1h=rates["cached_write_1h"],
        output=rates["output"] or NOTHING,
    )


def _at_size(prices: Mapping[str, Decimal | TieredPrices | None], start: int) -> dict[str, Decimal | None]:
    """The prices of calls whose input is just above `start` tokens."""
    return {kind: _step(price, start) if isinstance(price, TieredPrices) else price for kind, price in prices.items()}


def _step(price: TieredPrices, start: int) -> Decimal:
    return next((tier.price for tier in reversed(price.tiers) if tier.start <= start), price.base)


@cache
def _entries_on(day: date) -> tuple[Entry, ...]:
    return tuple(_priced_entries(datetime.combine(day, time(), tzinfo=UTC)))


def _priced_entries(at: datetime) -> Iterator[Entry]:
    for provider in _snapshot().providers:
        for model in provider.models:
            if rates := _rates(_Found(provider, model), at, at.date()):
                yield Entry(
                    provider=provider.id,
                    model=model.id,
                    name=model.name or model.id,
                    rates=rates,
                    context_window=model.context_window,
                )
