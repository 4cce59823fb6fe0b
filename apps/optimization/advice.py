"""What a person or an agent does with analyses and advice. Every query starts at the principal's organization."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from apps.accounts.models import Membership
from apps.accounts.tenancy import Principal
from apps.errors import Forbidden, NetraError, NotFound
from apps.optimization import analyses, jobs, recommendations, tasks
from apps.optimization.datasets import bill_of, refuse_bill, refuse_unready
from apps.optimization.models import Dataset, Recommendation, StoredAnalysis
from apps.optimization.services import get_dataset

MOST_UNDER_WAY = 20  # analyses of one user that are queued or running


class AnalysisNotFound(NotFound):
    """The analysis does not exist, or is another organization's."""

    code = "analysis.not_found"


class AnalysisOver(NetraError):
    """Only an analysis under way can be cancelled."""

    code = "analysis.over"
    status = 409


class TooManyAnalyses(NetraError):
    """So many wait already that others would wait behind them."""

    code = "quota.exceeded"
    status = 429
    retryable = True


class RecommendationNotFound(NotFound):
    """The recommendation does not exist, or is another organization's."""

    code = "recommendation.not_found"


class AlreadyDecided(NetraError):
    """Somebody has decided on it otherwise."""

    code = "recommendation.decided"
    status = 409


def request_analysis(
    *, principal: Principal, dataset_id: UUID, kind: str = "savings", parameters: Mapping[str, Any] | None = None
) -> StoredAnalysis:
    """The analysis of a dataset as it is now: the one there is, else a new one that a worker will compute.

    Raises:
        DatasetNotFound: there is none of that id.
        Forbidden: the principal may only look.
        UnknownAnalysis: there is no such kind.
        ImpossibleQuestion: the parameters are none that it takes.
        DatasetNotReady, DatasetFailed, NotABill: it has no calls, or `bill` no charges.
        TooManyAnalyses: as many as one user may have wait already.
    """
    dataset = get_dataset(principal=principal, dataset_id=dataset_id)
    _may_act(principal)
    refuse_unready(dataset)
    if bill := (parameters or {}).get("bill"):
        bill_of(_named(principal, bill))
    refuse_bill(dataset)
    with transaction.atomic():
        analysis, made = analyses.kept(dataset, kind, parameters or {}, by=principal.user_id)
        if made:
            _refuse_flood(principal)
            transaction.on_commit(lambda: ring(analysis.pk))
    return analysis


def _refuse_flood(principal: Principal) -> None:
    under_way = StoredAnalysis.objects.for_organization(principal).filter(
        created_by=principal.user_id, state__in=[StoredAnalysis.State.QUEUED, StoredAnalysis.State.RUNNING]
    )
    if under_way.count() > MOST_UNDER_WAY:
        raise TooManyAnalyses(
            f"{MOST_UNDER_WAY} analyses of yours are under way. Wait for them, or stop some.", retry_after=10.0
        )


def _named(principal: Principal, bill: Any) -> Dataset:
    try:
        return get_dataset(principal=principal, dataset_id=UUID(str(bill)))
    except ValueError:
        raise analyses.ImpossibleQuestion(f"bill: {bill!r} is no id of a dataset.") from None


def found_savings(*, principal: Principal, dataset_id: UUID) -> StoredAnalysis | None:
    """The newest analysis of a dataset without wishes, preferably one that did not fail; starts none.

    Raises:
        DatasetNotFound: there is none of that id.
        DatasetNotReady, DatasetFailed, NotCalls: it has no calls.
    """
    dataset = get_dataset(principal=principal, dataset_id=dataset_id)
    refuse_unready(dataset)
    refuse_bill(dataset)
    plain = list_analyses(principal=principal).filter(dataset=dataset, kind="savings", parameters={})
    ended = (StoredAnalysis.State.FAILED, StoredAnalysis.State.CANCELLED)
    found: StoredAnalysis | None = plain.exclude(state__in=ended).first() or plain.first()
    return found


def compute_again(*, principal: Principal, analysis_id: UUID) -> StoredAnalysis:
    """The same computation from its stored inputs, with the dataset, prices and code of now.

    Raises:
        AnalysisNotFound: there is none of that id.
    """
    stored = get_analysis(principal=principal, analysis_id=analysis_id)
    return request_analysis(
        principal=principal, dataset_id=stored.dataset_id, kind=stored.kind, parameters=stored.parameters
    )


def get_analysis(*, principal: Principal, analysis_id: UUID) -> StoredAnalysis:
    """One analysis of the organization.

    Raises:
        AnalysisNotFound: there is none of that id.
    """
    found: StoredAnalysis | None = StoredAnalysis.objects.for_organization(principal).filter(pk=analysis_id).first()
    if found is None:
        raise AnalysisNotFound(f"There is no analysis {analysis_id}.")
    return found


def list_analyses(*, principal: Principal) -> QuerySet[StoredAnalysis]:
    """The organization's analyses, newest first."""
    return StoredAnalysis.objects.for_organization(principal).order_by("-id")


def cancel_analysis(*, principal: Principal, analysis_id: UUID) -> StoredAnalysis:
    """Stop an analysis that is queued or running.

    Raises:
        AnalysisNotFound: there is none of that id.
        AnalysisOver: it is over already.
        Forbidden: the principal may only look.
    """
    found = get_analysis(principal=principal, analysis_id=analysis_id)
    _may_act(principal)
    if not jobs.cancel(found):
        raise AnalysisOver(f"The analysis is {found.state}; only one under way can be cancelled.")
    found.refresh_from_db()
    return found


def ring(analysis_id: UUID) -> None:
    """Wake a tool worker."""
    tasks.ring_analysis(analysis_id)


def rescue_analyses(*, now: datetime) -> int:
    """Ring again for analyses that lost their message or their worker; how many. For the sweep."""
    silent = analyses.requeue_silent(now)
    for analysis_id in silent:
        ring(analysis_id)
    return len(silent)


# --- Recommendations -------------------------------------------------------------------------------------------------


def list_recommendations(
    *, principal: Principal, dataset_id: UUID | None = None, state: str = ""
) -> list[Recommendation]:
    """The organization's recommendations, the best first; of one dataset or in one state, if asked."""
    rows = Recommendation.objects.for_organization(principal)
    if dataset_id:
        rows = rows.filter(dataset=get_dataset(principal=principal, dataset_id=dataset_id))
    return recommendations.of_organization(rows.filter(state=state) if state else rows)


def get_recommendation(*, principal: Principal, recommendation_id: UUID) -> Recommendation:
    """One recommendation of the organization.

    Raises:
        RecommendationNotFound: there is none of that id.
    """
    rows = Recommendation.objects.for_organization(principal).filter(pk=recommendation_id)
    found: Recommendation | None = rows.select_related("dataset").first()
    if found is None:
        raise RecommendationNotFound(f"There is no recommendation {recommendation_id}.")
    return found


def decide(
    *, principal: Principal, recommendation_id: UUID, state: str, adopted_at: datetime | None = None
) -> Recommendation:
    """Adopt a recommendation, from `adopted_at` (now) on, or dismiss it. Deciding the same again changes nothing.

    Raises:
        RecommendationNotFound: there is none of that id.
        Forbidden: the principal may only look.
        AlreadyDecided: it was decided otherwise.
    """
    found = get_recommendation(principal=principal, recommendation_id=recommendation_id)
    _may_act(principal)
    adopted = state == Recommendation.State.ADOPTED
    moment = (adopted_at or timezone.now()) if adopted else None
    open_ones = Recommendation.objects.filter(pk=found.pk, state=Recommendation.State.OPEN)
    open_ones.update(state=state, adopted_at=moment, decided_by=principal.user_id)
    found.refresh_from_db()
    if found.state != state:
        raise AlreadyDecided(f"{found.title!r} was {found.state} already.")
    if adopted:
        tasks.have_analysed(found.dataset)  # what it did, where there are calls since already
    return found


def _may_act(principal: Principal) -> None:
    if not principal.may(Membership.Role.MEMBER):
        raise Forbidden("Viewers only look; ask an owner for the member role.")
