"""Models and their prices over the wire; dollars are decimal strings per 1,000,000 tokens."""

from dataclasses import asdict
from typing import Any

from rest_framework import serializers

from apps.llm.catalogue import Entry
from apps.llm.pricing import BATCH, KINDS, Provenance, Rates, Tier


class RateField(serializers.DecimalField):
    """Dollars per 1,000,000 tokens; null where the list has no rate of its own."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_digits=None, decimal_places=None, allow_null=True, normalize_output=True, **kwargs)


class _RatesSerializer(serializers.Serializer[Any]):
    input = RateField()
    cached_read = RateField()
    cached_write = RateField()
    cached_write_1h = RateField()
    output = RateField()
    input_audio = RateField()
    cached_audio_read = RateField()
    output_audio = RateField()
    reasoning = RateField()


class TierSerializer(_RatesSerializer):
    above = serializers.IntegerField(help_text="The whole call pays these rates once its input exceeds this.")


class PriceSourceSerializer(serializers.Serializer[Any]):
    text = serializers.CharField(help_text="All of it in a sentence.")
    source = serializers.CharField(help_text="The public list, or who says what is paid.")  # type: ignore[assignment]
    version = serializers.CharField(allow_blank=True, help_text="Of the list.")
    entry = serializers.CharField(allow_blank=True, help_text="provider/model, as the list names it.")
    tier = serializers.CharField(help_text="The service tier.")
    remark = serializers.CharField(allow_blank=True)
    assumed = serializers.BooleanField(help_text="The list does not say that the price holds on that day.")
    override = serializers.UUIDField(allow_null=True, help_text="The own price.")
    effective_from = serializers.DateTimeField(allow_null=True, help_text="Null: the source does not say.")
    effective_to = serializers.DateTimeField(allow_null=True, help_text="From then on another price holds.")


class ModelSerializer(_RatesSerializer):
    provider = serializers.CharField()
    model = serializers.CharField()
    name = serializers.CharField()
    context_window = serializers.IntegerField(allow_null=True, help_text="Tokens.")
    tiers = TierSerializer(many=True)
    fee = RateField(help_text="Dollars for each call, whatever its size.")
    batch = _RatesSerializer(allow_null=True, help_text="Null: no batch price is known.")
    service = serializers.DictField(
        child=_RatesSerializer(), help_text="By service tier. One that is not there has no known price."
    )
    fallbacks = serializers.ListField(
        child=serializers.ChoiceField(choices=KINDS), help_text="Kinds without a rate of their own: never free."
    )
    provenance = PriceSourceSerializer(help_text="Where the price is from.")


def model_row(entry: Entry) -> dict[str, Any]:
    """What `ModelSerializer` shows of a catalogue entry."""
    rates = entry.rates
    return {
        "provider": entry.provider,
        "model": entry.model,
        "name": entry.name,
        "context_window": entry.context_window,
        "tiers": [_rates(tier) | {"above": tier.above} for tier in rates.tiers],
        "fee": rates.fee,
        "batch": _rates(rates.service[BATCH]) if BATCH in rates.service else None,
        "service": {tier: _rates(paid) for tier, paid in rates.service.items()},
        "fallbacks": rates.fallbacks,
        "provenance": provenance_row(rates),
    } | _rates(rates)


def provenance_row(rates: Rates) -> dict[str, Any]:
    """What `PriceSourceSerializer` shows."""
    said = rates.provenance or Provenance(source="unknown")
    dates = {"effective_from": rates.effective_from, "effective_to": rates.effective_to}
    return asdict(said) | dates | {"text": str(said)}


def _rates(step: Rates | Tier) -> dict[str, Any]:
    return {kind: getattr(step, kind) for kind in KINDS}


class FieldChangeSerializer(serializers.Serializer[Any]):
    field = serializers.CharField()
    old = serializers.CharField(allow_null=True)
    new = serializers.CharField(allow_null=True)


class PriceChangeSerializer(serializers.Serializer[Any]):
    price = serializers.UUIDField(help_text="The own price that was changed.")
    model = serializers.CharField()
    provider = serializers.CharField(allow_blank=True)
    everybody = serializers.BooleanField(help_text="The price is the house's, for all organizations.")
    change = serializers.ChoiceField(choices=["created", "changed", "deleted"])
    at = serializers.DateTimeField()
    by = serializers.EmailField(allow_null=True, help_text="Null: nobody who signed in, or an operator of the house.")
    fields = FieldChangeSerializer(many=True)  # type: ignore[assignment]


class UsageSerializer(serializers.Serializer[Any]):
    model_calls = serializers.IntegerField(help_text="Calls of a model, also those that were cut.")
    uncounted_calls = serializers.IntegerField(help_text="Calls whose tokens are not known, and so not in the sums.")
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    cost_usd = serializers.CharField(allow_null=True, help_text="Null as soon as the cost of one call is not known.")
    priced_usd = serializers.CharField(help_text="What the calls of known cost have cost.")
