"""The page of savings of a dataset, and what people decide about recommendations."""

from collections.abc import Callable, Mapping
from datetime import date
from typing import Any, TypeVar
from urllib.parse import urlencode
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST
from pydantic import ValidationError

from apps.accounts.models import Membership
from apps.accounts.tenancy import Principal
from apps.optimization import advice
from apps.optimization import services as datasets
from apps.optimization.analyses import code_version, is_current, is_plain
from apps.optimization.local import local_of
from apps.optimization.models import Dataset, Recommendation, StoredAnalysis
from apps.optimization.recommendations import per_day
from apps.optimization.serializers import DecisionSerializer
from apps.web import questions, reconciliation_picture, savings_picture
from apps.web.pages import page

LISTED = 20
UNDER_WAY = (StoredAnalysis.State.QUEUED, StoredAnalysis.State.RUNNING)


@page
def newest(request: HttpRequest, principal: Principal) -> HttpResponse:
    """To the savings of the newest dataset that is ready; without one, a page that says so."""
    found = datasets.list_datasets(principal=principal).filter(state=Dataset.State.READY).first()
    return redirect("web:savings", found.pk) if found else render(request, "web/no_savings.html")


@page
def savings(request: HttpRequest, principal: Principal, dataset_id: UUID) -> HttpResponse:
    dataset = datasets.get_dataset(principal=principal, dataset_id=dataset_id)
    if dataset.continues_id:
        return redirect("web:savings", dataset.continues_id)
    found = advice.found_savings(principal=principal, dataset_id=dataset_id)
    analysis = _followed(request, principal, dataset) or found
    context: dict[str, Any] = {
        "dataset": dataset,
        "analysis": analysis,
        "under_way": analysis is not None and analysis.state in UNDER_WAY,
        "may_act": principal.may(Membership.Role.MEMBER),
        "asked_for": str(analysis.pk) if analysis else "",
    }
    if analysis is not None and (picture := _readable(analysis, savings_picture.draw, dataset)):
        context |= {
            "picture": picture,
            "local": local_of(dataset),
            "current": is_current(analysis),
            "advised": True,
            "periods": _periods(principal, dataset),
            "asked": _asked(principal, dataset),
            "alerts": datasets.price_alerts(principal=principal).filter(dataset=dataset)[:LISTED],
            "levels": savings_picture.LEVELS,
            "today": timezone.now().date(),
            **_advice(principal, dataset),
        }
    return render(request, "web/savings.html", context)


Drawn = TypeVar("Drawn")


def _readable(
    analysis: StoredAnalysis, draw: Callable[[Mapping[str, Any], Dataset], Drawn], dataset: Dataset
) -> Drawn | None:
    """The picture of a result; None where there is none, or an earlier version stored it in another shape."""
    if analysis.result is None:
        return None
    try:
        return draw(analysis.result, dataset)
    except ValidationError:
        if analysis.code_version == code_version():
            raise
        return None


@require_POST
@page
def compute(request: HttpRequest, principal: Principal, dataset_id: UUID) -> HttpResponse:
    analysis = advice.request_analysis(principal=principal, dataset_id=dataset_id)
    return redirect("web:savings", analysis.dataset_id)


@require_POST
@page
def stop(request: HttpRequest, principal: Principal, analysis_id: UUID) -> HttpResponse:
    stopped = advice.cancel_analysis(principal=principal, analysis_id=analysis_id)
    if not is_plain(stopped):
        return redirect("web:analysis", stopped.pk)
    return redirect(f"{reverse('web:savings', args=[stopped.dataset_id])}?analysis={stopped.pk}")


# --- Questions -------------------------------------------------------------------------------------------------------


def _periods(principal: Principal, dataset: Dataset) -> dict[str, date]:
    """What to compare by default: the calls of the newest file with as many days before it."""
    later = datasets.later_files(principal=principal, dataset_id=dataset.pk).filter(state=Dataset.State.READY).first()
    ends = (dataset.last_call_at, later.last_call_at if later else None)
    last = max((end for end in ends if end), default=None)
    since = later.first_call_at if later else None
    return questions.periods(first=dataset.first_call_at, since=since, last=last, local=local_of(dataset))


def _asked(principal: Principal, dataset: Dataset) -> list[dict[str, object]]:
    """The questions that were put before and are answered on a page of their own, newest first."""
    rows = advice.list_analyses(principal=principal).filter(dataset=dataset, kind__in=questions.TITLES)
    rows = rows.exclude(kind="savings", parameters={})
    local = local_of(dataset)
    return [
        {"row": row, "title": questions.TITLES[row.kind], "words": questions.asked_in_words(row, local)}
        for row in rows.defer("result")[:LISTED]
    ]


@require_POST
@page
def ask(request: HttpRequest, principal: Principal, dataset_id: UUID) -> HttpResponse:
    dataset = datasets.get_dataset(principal=principal, dataset_id=dataset_id)
    form, kind = request.POST.dict(), request.POST.get("kind", "")
    parameters = questions.parameters_of(kind, form, local_of(dataset))
    asked = advice.request_analysis(principal=principal, dataset_id=dataset_id, kind=kind, parameters=parameters)
    return _to_answer(asked)


def _to_answer(asked: StoredAnalysis) -> HttpResponse:
    return redirect("web:savings", asked.dataset_id) if is_plain(asked) else redirect("web:analysis", asked.pk)


@page
def analysis(request: HttpRequest, principal: Principal, analysis_id: UUID) -> HttpResponse:
    found = advice.get_analysis(principal=principal, analysis_id=analysis_id)
    if is_plain(found):
        return redirect("web:savings", found.dataset_id)
    if found.kind == "reconciliation":
        beside = reverse("web:reconciliation", args=[found.dataset_id])
        return redirect(f"{beside}?{urlencode({'bill': found.parameters['bill']})}")
    if found.kind not in questions.TITLES:
        return redirect("web:savings", found.dataset_id)
    dataset, local = found.dataset, local_of(found.dataset)
    context: dict[str, Any] = {
        "dataset": dataset,
        "analysis": found,
        "title": questions.TITLES[found.kind],
        "words": questions.asked_in_words(found, local),
        "under_way": found.state in UNDER_WAY,
        "may_act": principal.may(Membership.Role.MEMBER),
        "local": local,
    }
    if found.kind == "savings":
        context |= {"picture": _readable(found, savings_picture.draw, dataset), "levels": savings_picture.LEVELS}
    else:
        context["answer"] = _readable(found, lambda result, _: questions.answer(found.kind, result, local), dataset)
    return render(request, "web/analysis.html", context)


@require_POST
@page
def ask_again(request: HttpRequest, principal: Principal, analysis_id: UUID) -> HttpResponse:
    return _to_answer(advice.compute_again(principal=principal, analysis_id=analysis_id))


# --- Bills and prices ------------------------------------------------------------------------------------------------


@page
def reconciliation(request: HttpRequest, principal: Principal, dataset_id: UUID) -> HttpResponse:
    """A dataset beside one of the bills; without one, the bills there are."""
    dataset = datasets.get_dataset(principal=principal, dataset_id=dataset_id)
    bills = datasets.list_datasets(principal=principal, kind=Dataset.Kind.BILL).filter(state=Dataset.State.READY)
    context: dict[str, Any] = {
        "dataset": dataset,
        "bills": bills[:LISTED],
        "may_act": principal.may(Membership.Role.MEMBER),
        "max_bytes": settings.MAX_UPLOAD_BYTES,
    }
    if named := request.GET.get("bill"):
        bill = datasets.get_dataset(principal=principal, dataset_id=_bill(named))
        found = datasets.reconciliation(principal=principal, dataset_id=dataset_id, bill_id=bill.pk)
        context |= {"bill": bill, "picture": reconciliation_picture.draw(found)}
    return render(request, "web/reconciliation.html", context)


def _bill(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise datasets.DatasetNotFound(f"There is no bill {text!r}.") from None


@require_POST
@page
def dismiss_alert(request: HttpRequest, principal: Principal, alert_id: UUID) -> HttpResponse:
    dismissed = datasets.dismiss_alert(principal=principal, alert_id=alert_id, now=timezone.now())
    return redirect("web:savings", dismissed.dataset_id)


def _followed(request: HttpRequest, principal: Principal, dataset: Dataset) -> StoredAnalysis | None:
    """The analysis that the page was waiting for, if it failed or was stopped: an older one would hide that."""
    ended = (StoredAnalysis.State.FAILED, StoredAnalysis.State.CANCELLED)
    try:
        named = UUID(request.GET.get("analysis", ""))
    except ValueError:
        return None
    found = advice.get_analysis(principal=principal, analysis_id=named)
    return found if found.dataset_id == dataset.pk and found.state in ended else None


def _advice(principal: Principal, dataset: Dataset) -> dict[str, list[dict[str, object]]]:
    """The recommendations of a dataset by state, the best first, with their dollars per day and their outcomes."""
    rows = advice.list_recommendations(principal=principal, dataset_id=dataset.pk)
    return {
        state.value: [
            {"row": row, "per_day": per_day(row), "outcomes": row.outcomes.order_by("to_at")}
            for row in rows
            if row.state == state
        ]
        for state in Recommendation.State
    }


@require_POST
@page
def decide(request: HttpRequest, principal: Principal, recommendation_id: UUID) -> HttpResponse:
    found = advice.get_recommendation(principal=principal, recommendation_id=recommendation_id)
    asked = DecisionSerializer(data={name: value for name, value in request.POST.items() if value})
    if asked.is_valid():
        decided = advice.decide(principal=principal, recommendation_id=recommendation_id, **asked.validated_data)
        messages.success(request, f"“{decided.title}” is {decided.state}.")
    else:
        messages.error(request, "Nothing was decided: choose to adopt or to dismiss, and write the date as 2026-12-31.")
    return redirect("web:savings", found.dataset_id)
