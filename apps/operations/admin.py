"""The operators' view of releases and of circuit breakers: how each goes, and the switches of both."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from django.contrib import admin, messages
from django.core.exceptions import BadRequest, PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.forms import Form
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.decorators import method_decorator
from django.views.decorators.http import require_POST
from simple_history.admin import SimpleHistoryAdmin
from unfold.admin import ModelAdmin
from unfold.decorators import action

from apps.operations import flags
from apps.operations.breakers import breakers
from apps.operations.models import CircuitBreaker, FeatureFlag, FlagOutcome, ReleaseStop
from apps.operations.read_only import ReadOnlyAdmin
from apps.resilience.breaker import Status
from apps.resilience.breakers import Breakers, BreakersAway
from apps.resilience.circuit import State

log = structlog.get_logger(__name__)

admin.site.login_template = "operations/admin_sign_in.html"


# --- Releases --------------------------------------------------------------------------------------------------------


def _mover(stage: FeatureFlag.Stage) -> Callable[..., None]:
    """The action that moves the chosen flags to a stage."""

    # Django's types allow an anonymous request.user; the admin does not.

    @admin.action(description=f"Move to {stage.label}".replace("%", "%%"), permissions=["change"])
    def move(self: ModelAdmin, request: HttpRequest, chosen: QuerySet[FeatureFlag]) -> None:
        moved = [flag.name for flag in chosen if flags.move(flag.name, to=stage, by=request.user)]  # type: ignore[arg-type]
        self.message_user(request, f"Moved to {stage.label}: {', '.join(moved) or 'none, they are there already'}.")

    move.__name__ = f"move_to_{stage}"
    return move


WHERE_STAGES_MOVE = (
    "A new flag is off. To move it, go to the list of feature flags, choose it there, and run one of the actions "
    "“Move to …”."
)
_SETTINGS = ["name", "description", "fallback_enabled", "error_limit", "minimum_runs", "window_runs"]
_STATE = ["stage", "error_rate", "stopped_at", "stopped_reason", "updated_at"]


@admin.register(FeatureFlag)
class FeatureFlagAdmin(SimpleHistoryAdmin, ModelAdmin):  # type: ignore[misc]  # unfold has no types
    """Settings are a form; stages are moved by actions, so that a form left open undoes no automatic stop."""

    list_display = ["name", "stage", "error_rate", "fallback_enabled", "stopped_at", "stopped_reason", "updated_at"]
    list_filter = ["stage"]
    search_fields = ["name", "description"]
    fieldsets = [
        (None, {"fields": _SETTINGS}),
        ("Stage", {"description": WHERE_STAGES_MOVE, "fields": _STATE}),
    ]
    add_fieldsets = [
        (None, {"fields": _SETTINGS}),
        ("Stage", {"description": WHERE_STAGES_MOVE, "fields": ["stage"]}),
    ]
    history_list_display = ["stage", "stopped_reason"]
    actions = [_mover(stage) for stage in FeatureFlag.Stage]
    actions_list = ["disable_all", "enable_all"]

    def get_readonly_fields(self, request: HttpRequest, obj: FeatureFlag | None = None) -> list[str]:
        return ["name", *_STATE] if obj else ["stage"]

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


# --- Circuit breakers ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Word:
    """An operator's word to a breaker; `leads_to` is the state in which there is no point in saying it."""

    label: str
    consequence: str
    done: str
    leads_to: State
    say: Callable[[Breakers, str], None]


WORDS = {
    "force_open": Word(
        label="Force open",
        consequence="Every call is refused, in all processes, until it is reset.",
        done="is forced open: every call is refused until it is reset.",
        leads_to=State.FORCED_OPEN,
        say=Breakers.force_open,
    ),
    "disable": Word(
        label="Disable",
        consequence="Every call is let through uncounted, in all processes, until it is reset.",
        done="is disabled: every call is let through until it is reset.",
        leads_to=State.DISABLED,
        say=Breakers.disable,
    ),
    "reset": Word(
        label="Reset",
        consequence="It is closed with nothing counted, and judges for itself again.",
        done="is reset: it is closed, and judges for itself again.",
        leads_to=State.CLOSED,
        say=Breakers.reset,
    ),
}
LOOKS = {State.CLOSED: "success", State.OPEN: "danger", State.HALF_OPEN: "warning", State.FORCED_OPEN: "danger"}


def _row(status: Status) -> dict[str, Any]:
    """A breaker as the list shows it."""
    state, rate, wait = State(status["state"]), status["failure_rate"], status["retry_after"]
    return {
        **status,
        "state": state.replace("_", " "),
        "look": LOOKS.get(state),
        "failure_rate": None if rate is None else f"{rate:.0%}",
        "wait": None if wait is None else math.ceil(wait),
        "words": {name: word.label for name, word in WORDS.items() if word.leads_to != state},
    }


@admin.register(CircuitBreaker)
class CircuitBreakerAdmin(ModelAdmin):  # type: ignore[misc]
    """All breakers as Redis has them, and an operator's word to one: asked for once more before it is given."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: CircuitBreaker | None = None) -> bool:
        return False

    def get_urls(self) -> list[URLPattern]:
        switch = path("switch/", self.admin_site.admin_view(self.switch), name="operations_circuitbreaker_switch")
        return [switch, *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        context: dict[str, Any] = {"rows": [], "away": None, "may_switch": self.has_change_permission(request)}
        try:
            context["rows"] = [_row(status) for status in breakers().statuses()]
        except BreakersAway as error:
            context["away"] = error.detail
        return self._page(request, "operations/breakers.html", "CircuitBreaker", **context)

    @method_decorator(require_POST)
    def switch(self, request: HttpRequest) -> HttpResponse:
        """Ask whether the word is meant, and once it is confirmed, give it."""
        if not self.has_change_permission(request):
            raise PermissionDenied
        name, key = request.POST.get("name", ""), request.POST.get("word", "")
        if key not in WORDS:
            raise BadRequest("word: one of " + ", ".join(WORDS))
        word = WORDS[key]
        try:
            if name not in {status["name"] for status in breakers().statuses()}:
                self.message_user(request, f"There is no breaker {name}.", messages.ERROR)
            elif "confirmed" not in request.POST:
                title = f"{word.label} {name}?"
                return self._page(request, "operations/breaker_word.html", title, name=name, key=key, word=word)
            else:
                self._give(request, name, word)
        except BreakersAway as error:
            self.message_user(request, error.detail, messages.ERROR)
        return redirect("admin:operations_circuitbreaker_changelist")

    def _give(self, request: HttpRequest, name: str, word: Word) -> None:
        word.say(breakers(), name)
        self.log_change(request, CircuitBreaker(name=name), word.label)
        log.warning("An operator has switched a breaker", breaker=name, word=word.label, by=str(request.user.pk))
        self.message_user(request, f"{name} {word.done}")

    def _page(self, request: HttpRequest, template: str, title: str, **context: Any) -> HttpResponse:
        known = {**self.admin_site.each_context(request), "opts": self.opts, "title": title}
        return TemplateResponse(request, template, known | context)
