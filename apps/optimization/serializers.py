"""Datasets and breakdowns over the wire."""

from typing import Any, get_args

from rest_framework import serializers

from apps.optimization.models import Dataset, PriceAlert
from apps.optimization.readers import is_storable
from apps.optimization.results import Dimension
from apps.optimization.services import as_document


class RejectSerializer(serializers.Serializer[Any]):
    line = serializers.IntegerField()
    column = serializers.CharField(allow_null=True)
    reason = serializers.CharField()


class VerdictSerializer(serializers.Serializer[Any]):
    model = serializers.CharField(allow_null=True)
    convention = serializers.ChoiceField(choices=["inclusive", "exclusive"])
    because = serializers.CharField()
    calls_with_cached_tokens = serializers.IntegerField()


class ProblemSerializer(serializers.Serializer[Any]):
    code = serializers.CharField()
    detail = serializers.CharField()


class DatasetSerializer(serializers.Serializer[Dataset]):
    """Describes the document; its one definition is in the import, which sends it as progress too."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    file_name = serializers.CharField()
    file_bytes = serializers.IntegerField()
    metadata_only = serializers.BooleanField(help_text="Prompt text was never stored.")
    price_as = serializers.CharField(
        allow_blank=True, help_text="The model that every call is priced as, if asked for."
    )
    mapping = serializers.DictField(child=serializers.CharField(allow_null=True))
    state = serializers.ChoiceField(choices=Dataset.State.choices)
    progress = serializers.IntegerField(min_value=0, max_value=100)
    source = serializers.CharField(  # type: ignore[assignment]
        help_text="What the file turned out to be; empty until it is known."
    )
    columns = serializers.DictField(child=serializers.CharField(), help_text="Field of a call -> column of the file.")
    conventions = VerdictSerializer(many=True, help_text="Whether input counts cached tokens, by model, and why.")
    notes = serializers.ListField(child=serializers.CharField(), help_text="What the import assumed.")
    rows = serializers.IntegerField()
    rejected_rows = serializers.IntegerField()
    rejects = RejectSerializer(many=True, help_text="The first hundred.")
    first_call_at = serializers.DateTimeField(allow_null=True)
    last_call_at = serializers.DateTimeField(allow_null=True)
    prices = serializers.CharField(help_text="The catalogue that the calls were priced with.")
    error = ProblemSerializer(allow_null=True)
    created_by = serializers.UUIDField()
    created_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)

    def to_representation(self, instance: Dataset) -> dict[str, Any]:
        return as_document(instance)


class MappingField(serializers.JSONField):
    """Field of a call -> column of the file; endless nesting is refused like any other JSON that is none."""

    def to_internal_value(self, data: Any) -> dict[str, str | None]:
        try:
            value = super().to_internal_value(data)
        except RecursionError:
            self.fail("invalid")
        if not isinstance(value, dict) or not all(isinstance(column, str | None) for column in value.values()):
            raise serializers.ValidationError("Give an object of field names and column names.")
        if not all(is_storable(name) for name in (*value, *filter(None, value.values()))):
            raise serializers.ValidationError("A name has characters in it that no column's name can have.")
        return value


class UploadSerializer(serializers.Serializer[Any]):
    """A multipart form."""

    file = serializers.FileField(allow_empty_file=True, help_text="CSV, JSON lines, JSON or Parquet.")
    name = serializers.CharField(required=False, max_length=200, help_text="Default: the file's name.")
    mapping = MappingField(
        required=False, help_text='Field of a call -> column of the file, for example {"input_tokens": "prompt_len"}.'
    )
    metadata_only = serializers.BooleanField(default=False, help_text="Never store prompt text.")
    price_as = serializers.CharField(
        required=False,
        allow_blank=True,
        max_length=128,
        help_text="Price every call as this model at today's list price, for logs that name none.",
    )


class PriceAlertSerializer(serializers.ModelSerializer[PriceAlert]):
    """A rate that a dataset's calls pay and that has become another."""

    dataset_name = serializers.CharField(source="dataset.name")

    class Meta:
        model = PriceAlert
        fields = (
            "id",
            "dataset",
            "dataset_name",
            "model",
            "provider",
            "tier",
            "kind",
            "old",
            "new",
            "concerns",
            "effective_from",
            "provenance",
            "share",
            "created_at",
            "dismissed_at",
            "dismissed_by",
        )


class AlertsQuerySerializer(serializers.Serializer[Any]):
    dismissed = serializers.BooleanField(default=False, help_text="Show the dismissed ones too.")


class BreakdownQuerySerializer(serializers.Serializer[Any]):
    by = serializers.ChoiceField(choices=get_args(Dimension), default="model")
    limit = serializers.IntegerField(min_value=1, max_value=500, default=50)
