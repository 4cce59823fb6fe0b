"""The pages. Each translates a request into one call of a service and its answer into a template."""

from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.db.models import Exists, OuterRef
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST

from apps.accounts.models import Membership
from apps.accounts.tenancy import Principal
from apps.agents import services as agents
from apps.conversations import services as conversations
from apps.conversations.models import Message, Question, Run, Thread
from apps.conversations.services import RunNotFound
from apps.optimization import services as datasets
from apps.optimization.importers import FIELDS
from apps.optimization.models import Dataset
from apps.web import dataset_picture, history
from apps.web.markdown import to_html
from apps.web.pages import page

LISTED_THREADS = 300
RUNS_PER_PAGE = 50
LISTED_DATASETS = 500

# --- Chat -------------------------------------------------------------------------------------------------------------


@page
def chat(request: HttpRequest, principal: Principal, thread_id: UUID | None = None) -> HttpResponse:
    thread = conversations.get_thread(principal=principal, thread_id=thread_id) if thread_id else None
    ready = list(datasets.list_datasets(principal=principal).filter(state=Dataset.State.READY)[:LISTED_DATASETS])
    context = {
        "datasets": ready,
        "chosen": _chosen(request, principal, thread, ready),
        "thread": thread,
        "current": thread_id,
        "groups": _groups(principal),
        "may_ask": principal.may(Membership.Role.MEMBER),
        "max_bytes": settings.MAX_UPLOAD_BYTES,
    }
    return render(request, "web/chat.html", context)


def _chosen(request: HttpRequest, principal: Principal, thread: Thread | None, ready: list[Dataset]) -> UUID | None:
    """The dataset that the next question is about: the one asked for, the thread's, the last used, the newest."""
    used = conversations.runs(principal=principal).filter(dataset__isnull=False).values_list("dataset", flat=True)
    offered = (
        _uuid(request.GET.get("dataset")),
        conversations.latest_dataset(thread_id=thread.pk) if thread else None,
        used.first(),
    )
    known = {dataset.pk for dataset in ready}
    return next((pk for pk in offered if pk in known), ready[0].pk if ready else None)


@page
def threads(request: HttpRequest, principal: Principal) -> HttpResponse:
    """The list of conversations alone, for a page that is open."""
    current = request.GET.get("current") or None
    context = {"groups": _groups(principal), "current": _uuid(current)}
    return render(request, "web/thread_list.html", context)


def _groups(principal: Principal) -> list[history.Group]:
    asked = Question.objects.filter(run=OuterRef("live_run"), answered_at=None)
    found = conversations.threads(principal=principal).annotate(asks=Exists(asked))[:LISTED_THREADS]
    return history.by_age(found, today=timezone.localdate())


def _uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return None


@page
def message(request: HttpRequest, principal: Principal, message_id: UUID) -> HttpResponse:
    """A finished message as HTML."""
    found = conversations.get_message(principal=principal, message_id=message_id)
    if found.role == Message.Role.USER:
        return render(request, "web/plain_message.html", {"text": found.text})
    return HttpResponse(to_html(found.text))


# --- Reports and runs -------------------------------------------------------------------------------------------------


@page
def report(request: HttpRequest, principal: Principal, report_id: UUID) -> HttpResponse:
    found = agents.get_report(principal=principal, report_id=report_id)
    document = agents.as_document(found)
    try:
        run = conversations.get_run(principal=principal, run_id=found.run)
    except RunNotFound:
        run = None  # the conversation was deleted; the report was not
    context = {"report": document, "summary": to_html(document["summary"]), "run": run}
    return render(request, "web/report.html", context)


@page
def report_body(request: HttpRequest, principal: Principal, report_id: UUID) -> HttpResponse:
    """Findings, charts and tables alone, for the conversation they belong to."""
    found = agents.get_report(principal=principal, report_id=report_id)
    return render(request, "web/report_body.html", {"report": agents.as_document(found)})


@page
def runs(request: HttpRequest, principal: Principal) -> HttpResponse:
    before, state = _uuid(request.GET.get("before")), request.GET.get("state")
    found = conversations.runs(principal=principal)
    if state in Run.State.values:
        found = found.filter(state=state)
    if before:
        found = found.filter(pk__lt=before)
    shown = list(found[: RUNS_PER_PAGE + 1])
    older = shown[RUNS_PER_PAGE - 1].pk if len(shown) > RUNS_PER_PAGE else None
    context = {"runs": shown[:RUNS_PER_PAGE], "older": older, "state": state, "states": Run.State.values}
    return render(request, "web/runs.html", context)


# --- Data -------------------------------------------------------------------------------------------------------------


@page
def data(request: HttpRequest, principal: Principal) -> HttpResponse:
    return render(request, "web/data.html", _datasets(principal))


@page
def data_list(request: HttpRequest, principal: Principal) -> HttpResponse:
    """The list of datasets alone, for a page that is open."""
    return render(request, "web/data_list.html", _datasets(principal))


def _datasets(principal: Principal) -> dict[str, Any]:
    found = list(datasets.list_datasets(principal=principal)[:LISTED_DATASETS])
    owner = principal.may(Membership.Role.OWNER)
    may_act = principal.may(Membership.Role.MEMBER)
    deletable = {each.pk for each in found if owner or (may_act and each.created_by == principal.user_id)}
    return {
        "datasets": found,
        "deletable": deletable,
        "may_act": may_act,
        "fields": FIELDS,
        "max_bytes": settings.MAX_UPLOAD_BYTES,
    }


@page
def dataset(request: HttpRequest, principal: Principal, dataset_id: UUID) -> HttpResponse:
    found = datasets.get_dataset(principal=principal, dataset_id=dataset_id)
    has_calls = found.state == Dataset.State.READY and found.kind == Dataset.Kind.CALLS
    picture = dataset_picture.draw(principal=principal, dataset=found) if has_calls else None
    return render(request, "web/dataset.html", {"dataset": found, "picture": picture})


@require_POST
@page
def delete_dataset(request: HttpRequest, principal: Principal, dataset_id: UUID) -> HttpResponse:
    name = datasets.get_dataset(principal=principal, dataset_id=dataset_id).name
    datasets.delete_dataset(principal=principal, dataset_id=dataset_id)
    messages.success(request, f"“{name}” is deleted.")
    return redirect("web:data")
