"""The operators' view of releases: how far each is, how it goes, and the switch that turns all off."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import QuerySet
from django.forms import Form
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from simple_history.admin import SimpleHistoryAdmin
from unfold.admin import ModelAdmin
from unfold.decorators import action

from apps.operations import flags
from apps.operations.models import FeatureFlag, FlagOutcome, ReleaseStop
from apps.operations.read_only import ReadOnlyAdmin


def _mover(stage: FeatureFlag.Stage) -> Callable[..., None]:
    """The action that moves the chosen flags to a stage."""

    # Django's types allow an anonymous request.user; the admin does not.

    @admin.action(description=f"Move to {stage.label}".replace("%", "%%"), permissions=["change"])
    def move(self: ModelAdmin, request: HttpRequest, chosen: QuerySet[FeatureFlag]) -> None:
        moved = [flag.name for flag in chosen if flags.move(flag.name, to=stage, by=request.user)]  # type: ignore[arg-type]
        self.message_user(request, f"Moved to {stage.label}: {', '.join(moved) or 'none, they are there already'}.")

    move.__name__ = f"move_to_{stage}"
    return move


@admin.register(FeatureFlag)
class FeatureFlagAdmin(SimpleHistoryAdmin, ModelAdmin):  # type: ignore[misc]  # unfold has no types
    """Settings are a form; stages are moved by actions, so that a form left open undoes no automatic stop."""

    list_display = ["name", "stage", "error_rate", "fallback_enabled", "stopped_at", "stopped_reason", "updated_at"]
    list_filter = ["stage"]
    search_fields = ["name", "description"]
    readonly_fields = ["stage", "error_rate", "stopped_at", "stopped_reason", "updated_at"]
    history_list_display = ["stage", "stopped_reason"]
    actions = [_mover(stage) for stage in FeatureFlag.Stage]
    actions_list = ["disable_all", "enable_all"]

    def get_readonly_fields(self, request: HttpRequest, obj: FeatureFlag | None = None) -> list[str]:
        return ["name", *self.readonly_fields] if obj else self.readonly_fields

    def save_model(self, request: HttpRequest, obj: FeatureFlag, form: Form, change: bool) -> None:
        """Save the settings beside the state that the flag has now, not the one it had when it was read."""
        with transaction.atomic():
            if change:
                now = get_object_or_404(FeatureFlag.objects.select_for_update(no_key=True), pk=obj.pk)
                for name in ("stage", "round", "stopped_at", "stopped_reason"):
                    setattr(obj, name, getattr(now, name))
            super().save_model(request, obj, form, change)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        stop = flags.open_stop()
        if stop is not None and request.method == "GET":
            said = f"All releases are off since {stop.disabled_at:%Y-%m-%d %H:%M} UTC, by {stop.disabled_by}."
            self.message_user(request, said, messages.WARNING)
        answer: HttpResponse = super().changelist_view(request, extra_context)
        return answer

    @admin.display(description="Error rate")
    def error_rate(self, flag: FeatureFlag) -> str:
        counted = flags.counted(flag.name)
        if counted.error_rate is None:
            return "no runs yet"
        return f"{counted.error_rate:.1%} ({counted.failed} of {counted.runs} runs)"

    @action(  # type: ignore[untyped-decorator]
        description="Disable all",
        permissions=["change"],
        dialog={
            "title": "Disable all releases?",
            "description": "Everybody gets the former versions at once. The stages stay as they are.",
            "form_class": None,
            "form_submit_text": "Disable all",
        },
    )
    def disable_all(self, request: HttpRequest, form: Form) -> HttpResponse:
        done = flags.disable_all(by=request.user)  # type: ignore[arg-type]
        self.message_user(request, "All releases are off." if done else "All releases were off already.")
        return self._back_to_list()

    @action(  # type: ignore[untyped-decorator]
        description="Enable all",
        permissions=["change"],
        dialog={
            "title": "Enable the releases again?",
            "description": "Each flag counts again with the stage that it has now.",
            "form_class": None,
            "form_submit_text": "Enable all",
        },
    )
    def enable_all(self, request: HttpRequest, form: Form) -> HttpResponse:
        done = flags.enable_all(by=request.user)  # type: ignore[arg-type]
        self.message_user(request, "The stages count again." if done else "They were not disabled.")
        return self._back_to_list()

    def _back_to_list(self) -> HttpResponse:
        return HttpResponse(headers={"HX-Redirect": reverse("admin:operations_featureflag_changelist")})


@admin.register(FlagOutcome)
class FlagOutcomeAdmin(ReadOnlyAdmin):
    list_display = ["recorded_at", "flag", "succeeded", "run_id", "user"]
    list_filter = ["flag", "succeeded"]
    search_fields = ["run_id", "user__email"]
    list_select_related = ["user"]


@admin.register(ReleaseStop)
class ReleaseStopAdmin(ReadOnlyAdmin):
    list_display = ["disabled_at", "disabled_by", "enabled_at", "enabled_by"]
    list_select_related = ["disabled_by", "enabled_by"]
