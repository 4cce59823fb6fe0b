"""The operators' view of runs and of the processes that work on them. Shown, never edited."""

import json
from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.db.models import DurationField, F, Q, QuerySet, Value
from django.db.models.functions import Cast, Coalesce, Now
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from unfold.decorators import display

from apps.accounts.models import User
from apps.conversations.models import Event, Question, Run, Step, ToolCall
from apps.execution import waterfall
from apps.execution.calls import masked
from apps.execution.models import WorkerProcess
from apps.execution.sweep import SILENCE
from apps.execution.trace import trace_id
from apps.execution.tracker import AgentExecutionTracker
from apps.execution.waterfall import spell_seconds
from apps.operations.read_only import ReadOnlyAdmin, ReadOnlyInline

SHOWN = 500  # events on a run's page
_ACTING_FOR = ["user", "organization", "plan", "thread", "run", "trace", "deadline_at"]
_RUN = [
    *("goal", "state", "workflow", "dataset", "created_at", "started_at", "finished_at", "not_before"),
    *("usage", "error_code", "error_detail", "support_id", "key"),
]
_PROCESS = ["id", "kind", "host", "pid", "since", "beat", "heard", "running"]
_SCOPES = ["created", "active", "cleaned", "refused", "creation"]


# --- Runs ------------------------------------------------------------------------------------------------------------


class StepInline(ReadOnlyInline):
    model = Step
    verbose_name_plural = "WorkflowOrchestrator: steps"
    fields = ["name", "agent", "state", "attempt", "losses", "worker", "deadline_at", "started_at", "finished_at"]
    readonly_fields = fields
    ordering = ["position"]
    hide_title = True


class ToolCallInline(ReadOnlyInline):
    """What a tool was called with is left out: the events show it, masked."""

    model = ToolCall
    verbose_name_plural = "RequestScopedToolDispatcher: tool calls"
    fields = ["tool", "call", "step", "effect", "place", "state", "attempt", "took", "error_code", "summary"]
    readonly_fields = fields
    ordering = ["id"]
    hide_title = True
    template_before = "execution/tool_calls.html"

    @admin.display(description="Seconds")
    def took(self, call: ToolCall) -> str | None:
        """From its start to its end; None while one of them is not known."""
        if call.started_at is None or call.finished_at is None:
            return None
        return f"{(call.finished_at - call.started_at).total_seconds():.3f}"


class QuestionInline(ReadOnlyInline):
    model = Question
    verbose_name_plural = "Questions to a person"
    fields = ["step", "call", "reason", "asked_at", "expires_at", "answered_at", "answerer", "answer"]
    readonly_fields = fields
    ordering = ["id"]
    hide_title = True

    @admin.display(description="Answered by")
    def answerer(self, question: Question) -> str | None:
        if question.answered_by is None:
            return None
        user = User.objects.filter(pk=question.answered_by).first()
        return str(user or question.answered_by)

    @admin.display(description="Answer")
    def answer(self, question: Question) -> str | None:
        """What was said, with secrets masked: a person may answer with anything."""
        if question.answered_at is None:
            return None
        said = masked(question.value)
        return said if isinstance(said, str) else json.dumps(said)


@admin.register(Run)
class RunAdmin(ReadOnlyAdmin):
    list_display = ["id", "state", "workflow", "user", "created_at", "started_at", "finished_at", "error_code"]
    list_filter = ["state", "workflow", "error_code"]
    search_fields = ["id", "thread__id", "user__email", "support_id"]
    list_select_related = ["user"]
    date_hierarchy = "created_at"
    readonly_fields = [*_ACTING_FOR, *_RUN, "events"]
    fieldsets = [
        (
            "UserExecutionContext",
            {"description": "Whom every agent and tool of this run acts for, and until when.", "fields": _ACTING_FOR},
        ),
        ("Run", {"fields": _RUN}),
        ("Journal", {"fields": ["events"], "classes": ["collapse"]}),
    ]
    inlines = [StepInline, ToolCallInline, QuestionInline]
    change_form_before_template = "execution/waterfall.html"

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, obj: Run | None = None, **kwargs: Any
    ) -> HttpResponse:
        if obj is not None:
            context["waterfall"] = waterfall.draw(AgentExecutionTracker.trace(obj))
        page: HttpResponse = super().render_change_form(request, context, *args, obj=obj, **kwargs)
        return page

    @admin.display(description="Plan")
    def plan(self, run: Run) -> str | None:
        """The organization's as it is now; each attempt of a step goes by the one of its own time."""
        return run.organization.plan_id

    @admin.display(description="Run")
    def run(self, run: Run) -> str:
        return str(run.pk)

    @admin.display(description="Trace ID")
    def trace(self, run: Run) -> str:
        return trace_id(run.pk)

    @admin.display(description="Events")
    def events(self, run: Run) -> SafeString:
        """The run's events in order; the table itself has a composite key, which the admin cannot list."""
        events = Event.objects.filter(run_id=run.pk).order_by("seq").annotate(of=Coalesce("step", Value("the run")))
        told = events.values_list("seq", "at", "of", "type", "data")
        return format_html_join("", "<div>{} · {} · {} · <b>{}</b> {}</div>", told[:SHOWN])


# --- Processes -------------------------------------------------------------------------------------------------------


def _scopes(count: str, heading: str) -> Callable[..., Any]:
    """The column that shows one of the counts of `apps.execution.context.scopes`; None where it was not told."""

    @admin.display(description=heading)
    def counted(self: ReadOnlyAdmin, process: WorkerProcess) -> int | None:
        found: int | None = process.status.get("scopes", {}).get(count)
        return found

    return counted


@admin.register(WorkerProcess)
class WorkerProcessAdmin(ReadOnlyAdmin):
    """What each process said of itself with its last beat; silence is measured by the database's clock."""

    list_display = [*_PROCESS[1:], *_SCOPES]
    list_filter = ["kind", "host"]
    search_fields = ["id", "host", "pid"]
    ordering = ["kind", "host", "pid"]
    sortable_by: list[str] = []
    readonly_fields = [*_PROCESS, *_SCOPES]
    fieldsets = [
        ("ExecutionEngine", {"fields": _PROCESS}),
        ("Scopes of UserExecutionContext", {"fields": _SCOPES}),
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[WorkerProcess]:
        allowed = Cast(Value(SILENCE), DurationField())
        rows: QuerySet[WorkerProcess] = super().get_queryset(request)
        return rows.annotate(silence=Now() - F("beat_at"), silent=Q(beat_at__lt=Now() - allowed))

    @admin.display(description="Since")
    def since(self, process: WorkerProcess) -> str:
        return f"{process.started_at:%Y-%m-%d %H:%M:%S}"

    # The two columns below are of rows that `get_queryset` has annotated.

    @admin.display(description="Last beat")
    def beat(self, process: Any) -> str:
        return f"{spell_seconds(max(0.0, process.silence.total_seconds()))} ago"

    @display(description="Heard", label={"beating": "success", "silent": "danger"})  # type: ignore[untyped-decorator]
    def heard(self, process: Any) -> str:
        return "silent" if process.silent else "beating"

    @admin.display(description="Steps running")
    def running(self, process: WorkerProcess) -> int | None:
        """None for a tool worker, which runs calls and no steps."""
        found: int | None = process.status.get("running")
        return found

    created = _scopes("created", "Scopes created")
    active = _scopes("active", "Active")
    cleaned = _scopes("cleaned", "Cleaned")
    refused = _scopes("refused", "Refused")

    @admin.display(description="Mean creation")
    def creation(self, process: WorkerProcess) -> str | None:
        scopes = process.status.get("scopes", {})
        if not scopes.get("created"):
            return None
        return f"{1000 * scopes['creation_seconds'] / scopes['created']:.3f} ms"
