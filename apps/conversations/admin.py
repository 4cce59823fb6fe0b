"""The operators' view of threads and runs; what happened is shown, never edited."""

from django.contrib import admin
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from apps.conversations.models import Event, Message, Run, Step, Thread, ToolCall
from apps.operations.read_only import ReadOnlyAdmin, ReadOnlyInline

SHOWN = 500  # events on a run's page


class MessageInline(ReadOnlyInline):
    model = Message
    fields = ["role", "text", "created_at"]


class StepInline(ReadOnlyInline):
    model = Step
    fields = ["name", "agent", "state", "attempt", "summary", "started_at", "finished_at"]


class ToolCallInline(ReadOnlyInline):
    model = ToolCall
    fields = ["step", "call", "tool", "effect", "state", "summary", "started_at", "finished_at"]


@admin.register(Thread)
class ThreadAdmin(ReadOnlyAdmin):
    list_display = ["title", "organization", "user", "last_seq", "updated_at", "archived_at"]
    search_fields = ["id", "title", "user__email"]
    list_select_related = ["organization", "user"]
    date_hierarchy = "created_at"
    inlines = [MessageInline]


@admin.register(Run)
class RunAdmin(ReadOnlyAdmin):
    list_display = ["id", "state", "workflow", "user", "created_at", "started_at", "finished_at", "error_code"]
    list_filter = ["state", "workflow", "error_code"]
    search_fields = ["id", "thread__id", "user__email", "support_id"]
    list_select_related = ["user"]
    date_hierarchy = "created_at"
    readonly_fields = ["events"]
    inlines = [StepInline, ToolCallInline]

    @admin.display(description="Events")
    def events(self, run: Run) -> SafeString:
        """The run's events in order; the table itself has a composite key, which the admin cannot list."""
        told = Event.objects.filter(run_id=run.pk).order_by("seq").values_list("seq", "at", "step", "type", "data")
        return format_html_join("", "<div>{} · {} · {} · <b>{}</b> {}</div>", told[:SHOWN])
