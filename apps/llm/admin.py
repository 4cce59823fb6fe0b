from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from simple_history.admin import SimpleHistoryAdmin
from unfold.admin import ModelAdmin

from apps.llm.models import ModelCall, Price


@admin.register(Price)
class PriceAdmin(SimpleHistoryAdmin, ModelAdmin):  # type: ignore[misc]
    list_display = ["model", "provider", "organization", "input", "output", "effective_from", "effective_to"]
    list_filter = ["provider", "organization"]
    search_fields = ["model", "provider", "source"]
    autocomplete_fields = ["organization"]


@admin.register(ModelCall)
class ModelCallAdmin(ModelAdmin):  # type: ignore[misc]
    """What Netra itself spent: to be read, never to be changed."""

    list_display = ["created_at", "organization", "provider", "model", "input_tokens", "output_tokens", "cost_usd"]
    list_filter = ["provider", "model"]
    date_hierarchy = "created_at"

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
