"""The operators' view of runs: what happened when, and how long it took. Shown, never edited."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from apps.conversations.models import Event, Run, Step, ToolCall
from apps.execution import waterfall
from apps.execution.tracker import AgentExecutionTracker
from apps.operations.read_only import ReadOnlyAdmin, ReadOnlyInline

SHOWN = 500  # events on a run's page


class StepInline(ReadOnlyInline):
    model = Step
    fields = ["name", "agent", "state", "attempt", "summary", "started_at", "finished_at"]


class ToolCallInline(ReadOnlyInline):
    model = ToolCall
    fields = ["step", "call", "tool", "effect", "state", "summary", "started_at", "finished_at"]


@admin.register(Run)
class RunAdmin(ReadOnlyAdmin):
    list_display = ["id", "state", "workflow", "user", "created_at", "started_at", "finished_at", "error_code"]
    list_filter = ["state", "workflow", "error_code"]
    search_fields = ["id", "thread__id", "user__email", "support_id"]
    list_select_related = ["user"]
    date_hierarchy = "created_at"
    readonly_fields = ["events"]
    inlines = [StepInline, ToolCallInline]
    change_form_before_template = "execution/waterfall.html"

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, obj: Run | None = None, **kwargs: Any
    ) -> HttpResponse:
        if obj is not None:
            context["waterfall"] = waterfall.draw(AgentExecutionTracker.trace(obj))
        page: HttpResponse = super().render_change_form(request, context, *args, obj=obj, **kwargs)
        return page

    @admin.display(description="Events")
    def events(self, run: Run) -> SafeString:
        """The run's events in order; the table itself has a composite key, which the admin cannot list."""
        told = Event.objects.filter(run_id=run.pk).order_by("seq").values_list("seq", "at", "step", "type", "data")
        return format_html_join("", "<div>{} · {} · {} · <b>{}</b> {}</div>", told[:SHOWN])
