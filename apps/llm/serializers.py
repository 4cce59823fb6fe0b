"""Models and their prices over the wire; dollars are decimal strings per 1,000,000 tokens."""

from typing import Any

from rest_framework import serializers

from apps.llm.catalogue import Entry
from apps.llm.pricing import KINDS, Rates, Tier


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


class TierSerializer(_RatesSerializer):
    above = serializers.IntegerField(help_text="The whole call pays these rates once its input exceeds this.")


class ModelSerializer(_RatesSerializer):
    provider = serializers.CharField()
    model = serializers.CharField()
    name = serializers.CharField()
    context_window = serializers.IntegerField(allow_null=True, help_text="Tokens.")
    tiers = TierSerializer(many=True)
    batch = _RatesSerializer(allow_null=True, help_text="Null: no batch price is known.")
    fallbacks = serializers.ListField(
        child=serializers.ChoiceField(choices=KINDS), help_text="Kinds without a rate of their own: never free."
    )
    provenance = serializers.CharField(help_text="Where the price is from.")


def model_row(entry: Entry) -> dict[str, Any]:
    """What `ModelSerializer` shows of a catalogue entry."""
    rates = entry.rates
    return {
        "provider": entry.provider,
        "model": entry.model,
        "name": entry.name,
        "context_window": entry.context_window,
        "tiers": [_rates(tier) | {"above": tier.above} for tier in rates.tiers],
        "batch": _rates(rates.batch) if rates.batch else None,
        "fallbacks": rates.fallbacks,
        "provenance": rates.provenance,
    } | _rates(rates)


def _rates(step: Rates | Tier) -> dict[str, Any]:
    return {kind: getattr(step, kind) for kind in KINDS}


class UsageSerializer(serializers.Serializer[Any]):
    model_calls = serializers.IntegerField(help_text="Calls of a model, also those that were cut.")
    uncounted_calls = serializers.IntegerField(help_text="Calls whose tokens are not known, and so not in the sums.")
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    cost_usd = serializers.CharField(allow_null=True, help_text="Null as soon as the cost of one call is not known.")
    priced_usd = serializers.CharField(help_text="What the calls of known cost have cost.")
