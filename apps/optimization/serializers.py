"""Datasets and breakdowns over the wire."""

from decimal import Decimal
from typing import Any, get_args

from rest_framework import serializers

from apps.optimization import analyses
from apps.optimization.local import is_time_zone
from apps.optimization.models import Dataset, Outcome, PriceAlert, Recommendation, StoredAnalysis
from apps.optimization.readers import is_storable
from apps.optimization.recommendations import per_day
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
    continues = serializers.UUIDField(allow_null=True, help_text="The dataset whose calls this file continues.")
    kind = serializers.ChoiceField(choices=Dataset.Kind.choices)
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
    rows = serializers.IntegerField(help_text="Calls of this file; those of later ones are at `files/`.")
    rejected_rows = serializers.IntegerField()
    known_rows = serializers.IntegerField(help_text="Calls that an earlier file had brought already.")
    rejects = RejectSerializer(many=True, help_text="The first hundred.")
    first_call_at = serializers.DateTimeField(allow_null=True)
    last_call_at = serializers.DateTimeField(allow_null=True)
    prices = serializers.CharField(help_text="The catalogue that the calls were priced with.")
    keep_days = serializers.IntegerField(allow_null=True, help_text="Older calls are removed; null: none are.")
    time_zone = serializers.CharField(help_text="Of the days and hours in reports.")
    currency = serializers.CharField(help_text="Of reports; prices are dollars.")
    currency_rate = serializers.CharField(help_text="Units of the currency for one dollar.")
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
    continues = serializers.UUIDField(
        required=False, help_text="The dataset of which this is a later file; it is read as the first one was."
    )
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


class DatasetsQuerySerializer(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(choices=Dataset.Kind.choices, default=Dataset.Kind.CALLS)


class ReconciliationQuerySerializer(serializers.Serializer[Any]):
    bill = serializers.UUIDField(help_text="A dataset of kind `bill`.")


class BreakdownQuerySerializer(serializers.Serializer[Any]):
    by = serializers.ChoiceField(choices=get_args(Dimension), default="model")
    limit = serializers.IntegerField(min_value=1, max_value=500, default=50)


class ChangesSerializer(serializers.Serializer[Any]):
    """What may be changed of a dataset."""

    name = serializers.CharField(required=False, max_length=200)
    keep_days = serializers.IntegerField(required=False, allow_null=True, min_value=1, max_value=36_500)
    time_zone = serializers.CharField(required=False, max_length=64, help_text="As in Europe/Berlin.")
    currency = serializers.RegexField(r"^[A-Z]{3}$", required=False, help_text="Three letters, as in EUR.")
    currency_rate = serializers.DecimalField(
        required=False,
        max_digits=18,
        decimal_places=6,
        min_value=Decimal("0.000001"),
        help_text="Units of the currency for one dollar; nothing is fetched.",
    )

    def validate_time_zone(self, value: str) -> str:
        if not is_time_zone(value):
            raise serializers.ValidationError(f"There is no time zone {value!r}; write it as Europe/Berlin or UTC.")
        return value


class AnalysisSerializer(serializers.Serializer[StoredAnalysis]):
    """One kept computation, with what is needed to do it again."""

    id = serializers.UUIDField()
    dataset = serializers.UUIDField()
    kind = serializers.CharField()
    parameters = serializers.DictField()
    state = serializers.ChoiceField(choices=StoredAnalysis.State.choices)
    progress = serializers.IntegerField(min_value=0, max_value=100)
    inputs = serializers.CharField(help_text="SHA-256 over all that the result depends on.")
    dataset_hash = serializers.CharField(help_text="SHA-256 over the files of the dataset.")
    prices = serializers.CharField(help_text="Version of the price catalogue.")
    code_version = serializers.CharField()
    seconds = serializers.FloatField(allow_null=True)
    error = ProblemSerializer(allow_null=True)
    created_by = serializers.UUIDField()
    created_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)

    def to_representation(self, instance: StoredAnalysis) -> dict[str, Any]:
        return analyses.frame(instance)


class AnalysisWithResultSerializer(AnalysisSerializer):
    result = serializers.JSONField(allow_null=True, help_text="Null until it is ready.")

    def to_representation(self, instance: StoredAnalysis) -> dict[str, Any]:
        return {**super().to_representation(instance), "result": instance.result}


class AnalysisRequestSerializer(serializers.Serializer[Any]):
    dataset = serializers.UUIDField()
    kind = serializers.ChoiceField(choices=sorted(analyses.KINDS), default="savings")
    parameters = serializers.DictField(default=dict)


class RecommendationSerializer(serializers.ModelSerializer[Recommendation]):
    """Something to do, and whether somebody does it."""

    per_day_usd = serializers.SerializerMethodField(help_text="Dollars for each day of effort; the order of the list.")
    confidence_basis = serializers.SerializerMethodField(help_text="Where the confidence comes from.")

    class Meta:
        model = Recommendation
        fields = (
            "id",
            "dataset",
            "analysis",
            "strategy",
            "title",
            "needs",
            "saving_usd",
            "low_usd",
            "high_usd",
            "monthly_usd",
            "per_day_usd",
            "evidence",
            "sufficiency",
            "sufficiency_state",
            "confidence",
            "confidence_basis",
            "detail",
            "state",
            "adopted_at",
            "decided_by",
            "created_at",
        )

    def get_per_day_usd(self, row: Recommendation) -> str:
        return format(per_day(row).quantize(Decimal("0.000001")), "f")

    def get_confidence_basis(self, row: Recommendation) -> str:
        if row.confidence is None:
            return "none: its owner has to allow it" if row.needs else "none: a ceiling is not measured"
        return "calibrated on outcomes" if row.calibrated else "prior, uncalibrated"


class OutcomeSerializer(serializers.ModelSerializer[Outcome]):
    class Meta:
        model = Outcome
        fields = (
            "measured_at",
            "from_at",
            "to_at",
            "calls",
            "predicted_usd",
            "realised_usd",
            "low_usd",
            "high_usd",
            "held",
            "detail",
        )


class DecisionSerializer(serializers.Serializer[Any]):
    """What is done about a recommendation."""

    state = serializers.ChoiceField(choices=["adopted", "dismissed"])
    adopted_at = serializers.DateTimeField(required=False, help_text="From when on it is in use; default: now.")


class RecommendationQuerySerializer(serializers.Serializer[Any]):
    dataset = serializers.UUIDField(required=False)
    state = serializers.ChoiceField(choices=Recommendation.State.choices, required=False)
