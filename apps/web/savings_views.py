"""The page of savings of a dataset, and what people decide about recommendations."""

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST

from apps.accounts.models import Membership
from apps.accounts.tenancy import Principal
from apps.optimization import advice
from apps.optimization import services as datasets
from apps.optimization.analyses import is_current
from apps.optimization.models import Dataset, Recommendation, StoredAnalysis
from apps.optimization.recommendations import per_day
from apps.optimization.serializers import DecisionSerializer
from apps.web import savings_picture
from apps.web.pages import page

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
    }
    if analysis is not None and analysis.result is not None:
        context |= {
            "picture": savings_picture.draw(analysis.result, dataset),
            "current": is_current(analysis),
            "levels": savings_picture.LEVELS,
            "today": timezone.now().date(),
            **_advice(principal, dataset),
        }
    return render(request, "web/savings.html", context)


@require_POST
@page
def compute(request: HttpRequest, principal: Principal, dataset_id: UUID) -> HttpResponse:
    analysis = advice.request_analysis(principal=principal, dataset_id=dataset_id)
    return redirect("web:savings", analysis.dataset_id)


@require_POST
@page
def stop(request: HttpRequest, principal: Principal, analysis_id: UUID) -> HttpResponse:
    stopped = advice.cancel_analysis(principal=principal, analysis_id=analysis_id)
    return redirect(f"{reverse('web:savings', args=[stopped.dataset_id])}?analysis={stopped.pk}")


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
