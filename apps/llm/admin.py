from django.contrib import admin
from simple_history.admin import SimpleHistoryAdmin
from unfold.admin import ModelAdmin

from apps.llm.models import ModelCall, Price
from apps.operations.read_only import ReadOnlyAdmin


@admin.register(Price)
class PriceAdmin(SimpleHistoryAdmin, ModelAdmin):  # type: ignore[misc]
    list_display = ["model", "provider", "organization", "input", "output", "effective_from", "effective_to"]
    list_filter = ["provider", "organization"]
    search_fields = ["model", "provider", "source"]
    autocomplete_fields = ["organization"]


@admin.register(Price.history.model)
class PriceChangeAdmin(ReadOnlyAdmin):
    """Who changed which own price: the change log over all prices."""

    list_display = [
        "history_date",
        "history_user",
        "history_type",
        "model",
        "provider",
        "organization",
        "input",
        "output",
        "effective_from",
        "effective_to",
    ]
    list_filter = ["history_type", "organization"]
    search_fields = ["model", "provider", "source"]
    list_select_related = ["organization", "history_user"]
    date_hierarchy = "history_date"


@admin.register(ModelCall)
class ModelCallAdmin(ReadOnlyAdmin):
    """What Netra itself asked and spent: to be read, never to be changed."""

    list_display = [
        "started_at",
        "organization",
        "provider",
        "model",
        "state",
        "input_tokens",
        "output_tokens",
        "cost_usd",
        "seconds",
    ]
    list_filter = ["state", "provider", "model"]
    search_fields = ["run"]
    list_select_related = ["organization"]
    date_hierarchy = "started_at"
