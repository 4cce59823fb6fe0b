from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from apps.operations.read_only import ReadOnlyAdmin
from apps.optimization.models import Dataset, PriceAlert, Recommendation, StoredAnalysis


@admin.register(Dataset)
class DatasetAdmin(ModelAdmin):  # type: ignore[misc]
    """What was imported: to be read, renamed or removed. Calls and prompts are never shown here."""

    list_display = ["name", "organization", "state", "rows", "rejected_rows", "file_bytes", "created_at"]
    list_filter = ["state", "source", "metadata_only"]
    search_fields = ["name", "file_name", "sha256"]
    list_select_related = ["organization"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        # The key would let its reader test which prompts are in the dataset.
        return [field.name for field in Dataset._meta.fields if field.name not in ("name", "hash_key")]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False


@admin.register(PriceAlert)
class PriceAlertAdmin(ReadOnlyAdmin):
    """Prices in use that have changed, and whether somebody took note."""

    list_display = [
        "created_at",
        "organization",
        "dataset",
        "model",
        "tier",
        "kind",
        "old",
        "new",
        "concerns",
        "effective_from",
        "share",
        "dismissed_at",
    ]
    list_filter = ["concerns", "tier"]
    search_fields = ["model", "provider"]
    list_select_related = ["organization", "dataset"]
    date_hierarchy = "created_at"


@admin.register(StoredAnalysis)
class StoredAnalysisAdmin(ReadOnlyAdmin):
    """What was computed, from what, and how long it took. Results are their owners' and are not shown."""

    list_display = ["created_at", "organization", "dataset", "kind", "state", "progress", "seconds", "error_code"]
    list_filter = ["kind", "state"]
    list_select_related = ["organization", "dataset"]
    exclude = ["result"]


@admin.register(Recommendation)
class RecommendationAdmin(ReadOnlyAdmin):
    """What was advised, how sure that was, and what was decided."""

    list_display = [
        "created_at",
        "organization",
        "dataset",
        "strategy",
        "evidence",
        "confidence",
        "state",
        "adopted_at",
    ]
    list_filter = ["strategy", "evidence", "state"]
    list_select_related = ["organization", "dataset"]
