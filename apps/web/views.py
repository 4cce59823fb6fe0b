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
from apps.optimization.serializers import ChangesSerializer
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
    found, bills = (
        list(datasets.list_datasets(principal=principal, kind=kind)[:LISTED_DATASETS])
        for kind in (Dataset.Kind.CALLS, Dataset.Kind.BILL)
    )
    return {
        "datasets": found,
        "bills": bills,
        "deletable": {each.pk for each in (*found, *bills) if _may_change(principal, each)},
        "may_act": principal.may(Membership.Role.MEMBER),
        "fields": FIELDS,
        "max_bytes": settings.MAX_UPLOAD_BYTES,
    }


@page
def dataset(request: HttpRequest, principal: Principal, dataset_id: UUID) -> HttpResponse:
    found = datasets.get_dataset(principal=principal, dataset_id=dataset_id)
    return _dataset_page(request, principal, found)


def _dataset_page(
    request: HttpRequest, principal: Principal, found: Dataset, asked: ChangesSerializer | None = None
) -> HttpResponse:
    """The page of a dataset; with `asked`, changes that were refused, beside what is wrong with them."""
    drawn = found.state == Dataset.State.READY and found.kind == Dataset.Kind.CALLS and not found.continues_id
    context = {
        "dataset": found,
        "picture": dataset_picture.draw(principal=principal, dataset=found) if drawn else None,
        "later": datasets.later_files(principal=principal, dataset_id=found.pk)[:LISTED_DATASETS],
        "may_act": principal.may(Membership.Role.MEMBER),
        "may_change": _may_change(principal, found),
        "settings": asked.initial_data if asked else _settings_of(found),
        "errors": asked.errors if asked else {},
        "max_bytes": settings.MAX_UPLOAD_BYTES,
    }
    return render(request, "web/dataset.html", context, status=400 if asked else 200)


def _may_change(principal: Principal, found: Dataset) -> bool:
    made_it = found.created_by == principal.user_id and principal.may(Membership.Role.MEMBER)
    return made_it or principal.may(Membership.Role.OWNER)


def _settings_of(found: Dataset) -> dict[str, Any]:
    return {
        "name": found.name,
        "keep_days": found.keep_days,
        "time_zone": found.time_zone,
        "currency": found.currency,
        "currency_rate": f"{found.currency_rate.normalize():f}",
    }


@require_POST
@page
def change_dataset(request: HttpRequest, principal: Principal, dataset_id: UUID) -> HttpResponse:
    found = datasets.get_dataset(principal=principal, dataset_id=dataset_id)
    asked = ChangesSerializer(data={name: request.POST.get(name, "").strip() or None for name in _settings_of(found)})
    if not asked.is_valid():
        return _dataset_page(request, principal, found, asked)
    datasets.change_dataset(principal=principal, dataset_id=dataset_id, **asked.validated_data)
    messages.success(request, "The settings are saved.")
    return redirect("web:dataset", dataset_id)


@require_POST
@page
def cancel_import(request: HttpRequest, principal: Principal, dataset_id: UUID) -> HttpResponse:
    return _to_first_file(datasets.cancel_import(principal=principal, dataset_id=dataset_id))


@require_POST
@page
def resume_import(request: HttpRequest, principal: Principal, dataset_id: UUID) -> HttpResponse:
    return _to_first_file(datasets.resume_import(principal=principal, dataset_id=dataset_id))


def _to_first_file(found: Dataset) -> HttpResponse:
    return redirect("web:dataset", found.continues_id or found.pk)


@require_POST
@page
def delete_dataset(request: HttpRequest, principal: Principal, dataset_id: UUID) -> HttpResponse:
    found = datasets.get_dataset(principal=principal, dataset_id=dataset_id)
    datasets.delete_dataset(principal=principal, dataset_id=dataset_id)
    messages.success(request, f"“{found.name}” is deleted.")
    return _to_first_file(found) if found.continues_id else redirect("web:data")
