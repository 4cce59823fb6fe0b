from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from apps.operations.read_only import ReadOnlyAdmin
from apps.optimization.models import Dataset, PriceAlert


@admin.register(Dataset)
class DatasetAdmin(ModelAdmin):  # type: ignore[misc]
    """What was imported: to be read, renamed or removed. Calls and prompts are never shown here."""

    list_display = ["name", "organization", "state", "rows", "rejected_rows", "file_bytes", "created_at"]
    list_filter = ["state", "source", "metadata_only"]
    search_fields = ["name", "file_name", "sha256"]
    list_select_related = ["organization"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [field.name for field in Dataset._meta.fields if field.name != "name"]

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
