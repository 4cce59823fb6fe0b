"""Which rates a model had at a moment: the public catalogue, overridden by the house's own effective-dated prices.

The catalogue is the one bundled with `genai-prices`; nothing is fetched. A model it does not know has no rates: its
cost is unknown, never zero.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import cache
from importlib.metadata import version
from typing import Any

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

from apps.llm.pricing import Provenance, Rates, Tier

LIST = "genai-prices"
LIST_VERSION = version(LIST)
VERSION = f"{LIST} {LIST_VERSION}"
# The newest change in a version of the list that is no announcement: from that day on its prices are those of the day,
# also where it names no start. What it says of earlier days without naming a start is an assumption.
LISTED = {"0.2.3": date(2026, 11, 9)}
NOTHING = Decimal(0)  # an embedding has no output to charge for
THOUSAND = 1000
# How the list names the service tiers. A tier that it does not price for a model has no known price.
SERVICE = {
    "batch": {"processing": "batch"},
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
    "fast": {"service_tier": "fast", "speed": "fast"},
}

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
    "gcp.gemini": "google",
    "gcp.gen_ai": "google",
    "gcp.vertex_ai": "google",
    "gcp_vertex_anthropic": "google",
    "gcp_vertex_gemini": "google",
    "gemini": "google",
    "google": "google",
    "google_ai_studio_gemini": "google",
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
# As Google's APIs name models: models/M, or publishers/P/models/M in a project or without one.
_GOOGLE_PATH = re.compile(r"^(projects/[^/]+/locations/[^/]+/)?(publishers/[^/]+/)?models/")
_PER_TOKEN = {
    "input": "input_mtok",
    "cached_read": "cache_read_mtok",
    "cached_write": "cache_write_mtok",
    "cached_write_1h": "cache_write_1h_mtok",
    "output": "output_mtok",
    "input_audio": "input_audio_mtok",
    "cached_audio_read": "cache_audio_read_mtok",
    "output_audio": "output_audio_mtok",
    "reasoning": "output_reasoning_mtok",
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
        self.version = f"{VERSION} + {_told(self._overrides)}" if self._overrides else VERSION
        self._asked: dict[tuple[str, str, datetime], Rates | None] = {}

    def rates(self, *, model: str, provider: str = "", at: datetime) -> Rates | None:
        """The rates of `model` for a call at `at` (aware); None where the price is unknown."""
        key = (model, provider, at)
        if key not in self._asked:
            self._asked[key] = self._look_up(model, provider, at)
        return self._asked[key]

    def _look_up(self, model: str, provider: str, at: datetime) -> Rates | None:
        for override in self._overrides:
            if override.holds(model=model, provider=provider, at=at):
                return override.rates
        found = _find(model, provider)
        return _rates_since(found, _since(found.model, at, self._today), self._today) if found else None

    def priced_by_time_of_day(self, *, model: str, provider: str = "") -> bool:
        """Whether the rates change within a day (on the half hour), so that a day is too coarse a key."""
        found = _find(model, provider)
        return found is not None and _changes_within_a_day(found.model)

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


@dataclass(frozen=True, eq=False)  # the same one for the same names
class _Found:
    provider: Provider
    model: ModelInfo


def _precedence(override: Override) -> tuple[bool, bool, float]:
    starts = override.rates.effective_from
    return override.own, bool(override.provider), starts.timestamp() if starts else 0.0


def _told(overrides: Sequence[Override]) -> str:
    prices = hashlib.blake2b(repr(overrides).encode(), digest_size=4).hexdigest()
    return f"{len(overrides)} own ({prices})"


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
    rest, prefixed = _placed(model)
    place = PROVIDERS.get(provider.lower(), provider or None)
    if place is not None:
        yield model, place
    if prefixed is not None and place in (None, prefixed):
        yield rest, prefixed
    if place is None and prefixed is None:
        yield model, None


def _placed(model: str) -> tuple[str, str | None]:
    """A model's name without the provider before it, and that provider; None where the name does not begin with one.

    >>> _placed("openai::gpt-4o"), _placed("azure/gpt-4o"), _placed("models/gemini-2.5-flash"), _placed("gpt-4o")
    (('gpt-4o', 'openai'), ('gpt-4o', 'azure'), ('gemini-2.5-flash', 'google'), ('gpt-4o', None))
    """
    if _GOOGLE_PATH.match(model):
        return _GOOGLE_PATH.sub("", model), "google"
    prefix, shorthand, rest = model.partition("::")  # as TensorZero writes it, which may name OpenAI's API too
    if shorthand:
        place, rest = PROVIDERS.get(prefix.lower(), prefix.lower()), rest.removeprefix("responses::")
    else:
        prefix, _, rest = model.partition("/")
        known = PROVIDERS.get(prefix.lower()) if rest else None
        if known is None:
            return model, None
        place, rest = known, _AWS_REGION.sub("", rest)
    return _GOOGLE_PATH.sub("", rest) if place == "google" else rest, place


def _changes_within_a_day(model: ModelInfo) -> bool:
    prices = model.prices if isinstance(model.prices, list) else []
    return any(isinstance(price.constraint, TimeOfDateConstraint) for price in prices)


def _since(model: ModelInfo, at: datetime, today: date) -> datetime:
    """The first moment from which on the list says of the model what it says at `at`; its rates are those of then."""
    if _changes_within_a_day(model):
        return at
    dated = [*(model.prices if isinstance(model.prices, list) else ()), *(model.price_variants or ())]
    turns = [part.constraint.start_date for part in dated if isinstance(part.constraint, StartDateConstraint)]
    turns.append(LISTED.get(LIST_VERSION, today))
    day = at.astimezone(UTC).date()
    return datetime.combine(max((turn for turn in turns if turn <= day), default=date.min), time(), tzinfo=UTC)


@cache
def _rates_since(found: _Found, at: datetime, today: date) -> Rates | None:
    return _rates(found, at, today)


def _rates(found: _Found, at: datetime, today: date) -> Rates | None:
    starts, ends = _listed_between(found.model, at)
    provenance = Provenance(
        source=LIST,
        version=LIST_VERSION,
        entry=f"{found.provider.id}/{found.model.id}",
        assumed=starts is None and at.astimezone(UTC).date() < LISTED.get(LIST_VERSION, today),
    )
    standard = _from_listed(found.model.get_prices(at), provenance)
    if standard is None:
        return None
    tiers = {tier: _tier_rates(found, at, today, standard, tier) for tier in SERVICE}
    return replace(
        standard,
        service={tier: rates for tier, rates in tiers.items() if rates},
        effective_from=starts,
        effective_to=ends,
    )


def _listed_between(model: ModelInfo, at: datetime) -> tuple[datetime | None, datetime | None]:
    """From when until before when the list says that its price of `at` holds; None where it does not say."""
    prices = model.prices if isinstance(model.prices, list) else []
    starts = [p.constraint.start_date for p in prices if isinstance(p.constraint, StartDateConstraint)]
    day = at.astimezone(UTC).date()
    before, after = [start for start in starts if start <= day], [start for start in starts if start > day]
    return _midnight(max(before, default=None)), _midnight(min(after, default=None))


def _midnight(day: date | None) -> datetime | None:
    return None if day is None else datetime.combine(day, time(), tzinfo=UTC)


def _tier_rates(found: _Found, at: datetime, today: date, standard: Rates, tier: str) -> Rates | None:
    """A tier's prices at `at`; before their first listing those of that day, if the standard price was the same."""
    # The catalogue lends other houses' models to a provider, but not the prices of its tiers.
    lends = not any(found.model is own for own in found.provider.models)
    starts = [_start(v) for v in found.model.price_variants or () if v.when.items() <= SERVICE[tier].items()]
    if lends or not starts:
        return None
    day, said = at.astimezone(UTC).date(), standard.provenance
    if any(start <= day for start in starts):
        return _from_listed(found.model.get_prices(at, SERVICE[tier]), said and replace(said, tier=tier))
    first = min(starts)
    listed = datetime.combine(first, time(), tzinfo=UTC)
    if first > today or _from_listed(found.model.get_prices(listed), said) != standard:
        return None
    early = said and replace(said, tier=tier, remark=f"as first listed on {first}", assumed=True)
    return _from_listed(found.model.get_prices(listed, SERVICE[tier]), early)


def _start(variant: PriceVariant) -> date:
    return variant.constraint.start_date if isinstance(variant.constraint, StartDateConstraint) else date.min


def _from_listed(listed: ModelPrice, provenance: Provenance | None) -> Rates | None:
    """The listed prices per token; None where the model is not priced per token of input."""
    prices = {kind: getattr(listed, key) for kind, key in _PER_TOKEN.items()}
    starts = sorted({t.start for p in prices.values() if isinstance(p, TieredPrices) for t in p.tiers})
    base = _at_size(prices, -1)
    if base["input"] is None:
        return None
    fee = listed.requests_kcount
    return Rates(
        **_charges(base),
        tiers=tuple(Tier(above=start, **_charges(_at_size(prices, start))) for start in starts),
        fee=fee / THOUSAND if isinstance(fee, Decimal) else NOTHING,
        provenance=provenance,
    )


def _charges(prices: Mapping[str, Decimal | None]) -> dict[str, Any]:
    return {**prices, "input": prices["input"] or NOTHING, "output": prices["output"] or NOTHING}


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
