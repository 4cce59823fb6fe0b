"""Ask a cheaper model: a ceiling from list prices, because the calls cannot show how well it would have answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import groupby
from typing import Any

from apps.llm.catalogue import Catalogue, Identity
from apps.llm.pricing import BATCH, KINDS, STANDARD, Rates, dollars, tokens_sql
from apps.optimization.calls import Calls
from apps.optimization.latency import latency
from apps.optimization.results import Strategy, usd
from apps.optimization.simulators import DEFAULTS, Options, free_sql, priceless, strategy

SHOWN_MODELS = 10
# The same text is more or fewer tokens elsewhere, and answers are longer or shorter: a range, where no pairs say more.
MORE_TOKENS, FEWER_TOKENS = Decimal("1.3"), Decimal("0.8")
LATENCY = "Unknown: cheaper models often answer sooner, but these calls cannot show it."
_LEAVE = (
    """CREATE OR REPLACE TEMP TABLE treatment_model_swap_ceiling ("call" BIGINT, model VARCHAR, provider VARCHAR)"""
)
# Models that are widely offered and priced per token, by provider, from dear to cheap. A candidate is tried only if
# the catalogue knows its price; a name that goes out of sale drops out by itself.
FAMILIES: dict[str, tuple[str, ...]] = {
    "openai": ("gpt-4o", "gpt-5", "gpt-4.1", "gpt-4.1-mini", "gpt-5-mini", "gpt-4o-mini", "gpt-4.1-nano", "gpt-5-nano"),
    "anthropic": ("claude-opus-4-5", "claude-sonnet-4-5", "claude-haiku-4-5"),
    "google": ("gemini-2.5-pro", "gemini-2.5-flash", "gemini-2.5-flash-lite"),
    "mistral": ("mistral-large-latest", "mistral-medium-latest", "mistral-small-latest"),
    "deepseek": ("deepseek-chat",),
}


@dataclass(frozen=True, kw_only=True)
class _Bucket:
    """Token sums of one model's calls of one moment, whose inputs lie between neighbouring thresholds."""

    model: str
    provider: str
    at: datetime
    batch: bool  # sent through a batch API, and priced so at the candidate too
    smallest: int  # the smallest input among them
    calls: int
    tokens: dict[str, int]  # by kind of pricing.KINDS
    cost_pico: int


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    model: str
    provider: str
    context_window: int | None  # tokens, None where unknown
    rates: dict[datetime, Rates]  # at the moments of the calls


@strategy(stage="route")
def model_swap_ceiling(calls: Calls, options: Options = DEFAULTS) -> Strategy:
    """The most that asking one cheaper model would save per model in use: same tokens, other list price."""
    calls.connection.execute(_LEAVE)
    candidates = _candidates(calls, options)
    buckets = _buckets(calls, _thresholds(candidates), free_sql(options))
    named, unpriced, whole = calls.row(
        """SELECT count(model), count(*) FILTER (cost_pico IS NULL), count(*)
           FROM calls WHERE billed"""
    )
    without = priceless(unpriced, whole, "calls")
    if whole and unpriced == whole:
        return _strategy(saving_usd=None, missing=("price",) if named else ("model",), why=without)
    groups = _by_model(buckets)
    swaps = [_swap(calls.catalogue, group, candidates) for group in groups]
    for group, swap in zip(groups, swaps, strict=True):
        if swap["candidates"]:
            _move(calls, group[0], _dearest_saved(swap, candidates), free_sql(options))
    swaps.sort(key=lambda swap: (-swap["saving_usd"], swap["model"]))
    saving = sum(swap["saving_usd"] for swap in swaps)
    detail = {
        "models": [_in_dollars(swap) for swap in swaps[:SHOWN_MODELS]],
        "other_models": max(0, len(swaps) - SHOWN_MODELS),
        "quality": "unknown",
    }
    calls.connection.execute(
        'CREATE OR REPLACE TEMP TABLE moved AS SELECT "call" FROM calls WHERE billed AND model IN (SELECT unnest(?))',
        [[swap["model"] for swap in swaps if swap["saving_usd"]]],
    )
    times = latency(calls, changed="FROM moved")
    why = " ".join(filter(None, (_dearest(swaps), without))) or None
    return _strategy(saving_usd=dollars(saving), why=why, latency=times, detail=detail)


def _dearest(swaps: Sequence[Mapping[str, Any]]) -> str | None:
    """The swap that saves most, in a sentence; None where none saves."""
    if not swaps or not swaps[0]["candidates"]:
        return None
    first = swaps[0]
    best = max(first["candidates"], key=lambda offer: offer["saving_usd"])
    return (
        f"Most of it by {best['model']} instead of {first['model']}: the same tokens at its list price. Whether it "
        "answers well enough is unknown."
    )


def _candidates(calls: Calls, options: Options) -> list[_Candidate]:
    moments = [at.replace(tzinfo=UTC) for (at,) in calls.rows("SELECT DISTINCT price_moment FROM calls WHERE billed")]
    offered = [(provider, model) for provider, models in FAMILIES.items() for model in models]
    if options.candidates is not None:
        named = (name.rpartition("/") for name in options.candidates)
        offered = [(provider, model) for provider, _, model in named]
    return [found for provider, model in offered if (found := _candidate(calls.catalogue, provider, model, moments))]


def _candidate(catalogue: Catalogue, provider: str, model: str, moments: list[datetime]) -> _Candidate | None:
    identity = catalogue.identify(model=model, provider=provider)
    rates = {at: found for at in moments if (found := catalogue.rates(model=model, provider=provider, at=at))}
    if identity is None or len(rates) < len(moments):
        return None
    return _Candidate(
        model=identity.model, provider=identity.provider, context_window=identity.context_window, rates=rates
    )


def _thresholds(candidates: list[_Candidate]) -> list[int]:
    """Every input size at which a candidate's price or fitness changes."""
    listed = [rates for c in candidates for rates in c.rates.values()]
    tiers = {
        tier.above for rates in listed for each in (rates, rates.service.get(BATCH)) if each for tier in each.tiers
    }
    return sorted(tiers | {c.context_window for c in candidates if c.context_window})


def _buckets(calls: Calls, thresholds: list[int], free: str) -> list[_Bucket]:
    # Within a bucket every candidate stays on one band, so sums of tokens price exactly like the calls themselves.
    sums = ", ".join(f"sum({tokens})" for tokens in tokens_sql("calls").values())
    step = " + ".join(f"(input_tokens > {threshold})::INTEGER" for threshold in thresholds) or "0"
    found = calls.rows(
        f"""SELECT model, coalesce(provider, ''), price_moment, coalesce(batch, false), {step},
                   min(input_tokens), count(*), sum(cost_pico), {sums}
            FROM calls WHERE billed AND cost_pico > 0 AND model IS NOT NULL AND {free}
            GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5"""  # noqa: S608
    )
    return [_bucket(row) for row in found]


def _bucket(row: tuple[Any, ...]) -> _Bucket:
    model, provider, moment, batch, _, smallest, count, cost, *sums = row
    return _Bucket(
        model=model,
        provider=provider,
        at=moment.replace(tzinfo=UTC),
        batch=batch,
        smallest=smallest,
        calls=count,
        tokens=dict(zip(KINDS, map(int, sums), strict=True)),
        cost_pico=int(cost),
    )


def _by_model(buckets: list[_Bucket]) -> list[list[_Bucket]]:
    return [list(group) for _, group in groupby(buckets, key=lambda bucket: (bucket.model, bucket.provider))]


def _swap(catalogue: Catalogue, buckets: list[_Bucket], candidates: list[_Candidate]) -> dict[str, Any]:
    model, provider = buckets[0].model, buckets[0].provider
    own = catalogue.identify(model=model, provider=provider)
    offers = [_offer(buckets, c, own) for c in candidates if own is None or c.model != own.model]
    cheaper = [offer for offer in offers if offer["saving_usd"] > 0]
    # The smallest step first: the same provider's, then whatever saves most.
    cheaper.sort(key=lambda offer: (not offer["same_provider"], -offer["saving_usd"]))
    return {
        "model": model,
        "provider": provider or (own.provider if own else None),
        "calls": sum(bucket.calls for bucket in buckets),
        "cost_usd": sum(bucket.cost_pico for bucket in buckets),
        "saving_usd": max((offer["saving_usd"] for offer in cheaper), default=0),
        "candidates": cheaper,
    }


def _dearest_saved(swap: dict[str, Any], candidates: list[_Candidate]) -> _Candidate:
    """The candidate with which a model in use saves what its swap says."""
    best = max(swap["candidates"], key=lambda offer: offer["saving_usd"])
    return next(c for c in candidates if (c.model, c.provider) == (best["model"], best["provider"]))


def _move(calls: Calls, bucket: _Bucket, to: _Candidate, free: str) -> None:
    """Leave the calls of one model that fit the candidate for the joint saving."""
    fits = "true" if to.context_window is None else f"input_tokens <= {to.context_window}"
    batched = all(BATCH in rates.service for rates in to.rates.values())
    calls.connection.execute(
        f"""INSERT INTO treatment_model_swap_ceiling SELECT call, ?, ? FROM calls
            WHERE billed AND cost_pico > 0 AND model = ? AND coalesce(provider, '') = ? AND {free} AND {fits}
              AND ({str(batched).lower()} OR batch IS NOT TRUE)""",  # noqa: S608
        [to.model, to.provider, bucket.model, bucket.provider],
    )


def _offer(buckets: list[_Bucket], candidate: _Candidate, own: Identity | None) -> dict[str, Any]:
    fitting = [b for b in buckets if _fits(b, candidate)]
    cost = sum(_cost(bucket, candidate.rates[bucket.at]) for bucket in fitting)
    return {
        "model": candidate.model,
        "provider": candidate.provider,
        "same_provider": own is not None and own.provider == candidate.provider,
        "calls": sum(bucket.calls for bucket in fitting),
        "cost_usd": cost,
        "saving_usd": sum(bucket.cost_pico for bucket in fitting) - cost,
        "saving_from_usd": sum(bucket.cost_pico for bucket in fitting) - round(cost * MORE_TOKENS),
        "saving_to_usd": sum(bucket.cost_pico for bucket in fitting) - round(cost * FEWER_TOKENS),
    }


def _fits(bucket: _Bucket, candidate: _Candidate) -> bool:
    if bucket.batch and BATCH not in candidate.rates[bucket.at].service:
        return False
    return candidate.context_window is None or bucket.smallest <= candidate.context_window


def _cost(bucket: _Bucket, rates: Rates) -> int:
    paid = rates.at_tier(BATCH if bucket.batch else STANDARD)
    band = next(b for b in paid.bands() if b.above < bucket.smallest <= b.up_to)
    return bucket.calls * band.fee + sum(count * int(getattr(band, kind)) for kind, count in bucket.tokens.items())


def _in_dollars(swap: dict[str, Any]) -> dict[str, Any]:
    """The same with dollars as decimal strings instead of pico-dollars."""
    return {key: _told(key, value) for key, value in swap.items()}


def _told(key: str, value: Any) -> Any:
    if key == "candidates":
        return [_in_dollars(offer) for offer in value]
    return usd(value) if key.endswith("_usd") else value


def _strategy(**more: Any) -> Strategy:
    return Strategy(
        name="model_swap_ceiling",
        title="Ask a cheaper model",
        evidence="E0",
        up_to=True,
        assumptions=(
            "Up to: the same tokens at another model's list price. Whether it answers well enough is unknown.",
            "Each model in use moves to the candidate that saves most; part of it, or another candidate, saves less.",
            "Calls that do not fit the candidate's context stay, and those of a batch API where it has no batch price.",
            "Other tokenisers change the counts: the range of each swap has 30 % more tokens to 20 % less.",
            "Cached tokens are assumed to stay cached; calls of a batch API are priced at the candidate's batch price.",
        ),
        latency_effect=LATENCY,
        **more,
    )
