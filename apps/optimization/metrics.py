"""Whether Netra is of use to an organization: four measures, each a query; None where nothing happened yet."""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from statistics import correlation, median
from typing import Any
from uuid import UUID

from django.db.models import Min

from apps.conversations.models import Question
from apps.optimization.models import Dataset, Outcome, Recommendation, StoredAnalysis
from apps.optimization.results import Result

FEW = 10  # outcomes below which a correlation says nothing
INCOMPLETE = ("insufficient", "minimal")


class Rate(Result):
    """A share of counted things."""

    value: float | None  # `of` / `out_of`; None of nothing
    of: int
    out_of: int


class Accuracy(Result):
    """How stated confidences compare with what came true."""

    value: float | None  # correlation of confidence and coming true, -1 to 1; None below ten outcomes
    brier: float | None  # mean squared difference, 0 is perfect
    stated: float | None  # mean confidence
    came_true: float | None  # share of savings that did
    outcomes: int


class Durations(Result):
    """Seconds from the first upload."""

    first_recommendation: float | None
    first_adoption: float | None
    first_measured_saving: float | None


class BusinessMetrics(Result):
    conversion_rate: Rate  # people who were asked for data: those who gave it
    value_delivery_rate: Rate  # datasets with incomplete data: those with a proven saving all the same
    confidence_accuracy: Accuracy
    time_to_value: Durations


def business_metrics(*, organization_id: UUID) -> BusinessMetrics:
    """The four measures of one organization. Six queries."""
    return BusinessMetrics(
        conversion_rate=_conversion(organization_id),
        value_delivery_rate=_delivery(organization_id),
        confidence_accuracy=_accuracy(
            list(Outcome.of_stated_confidence(organization_id).values_list("recommendation__confidence", "held"))
        ),
        time_to_value=_time_to_value(organization_id),
    )


def _conversion(organization_id: UUID) -> Rate:
    """Of the people whom a run asked for data, those who answered it or uploaded a file after it."""
    asked: dict[UUID, datetime] = {}
    answered = set()
    questions = Question.objects.filter(run__organization=organization_id, reason=Question.Reason.DATA)
    for person, asked_at, answered_at in questions.values_list("run__user_id", "asked_at", "answered_at"):
        asked[person] = min(asked.get(person, asked_at), asked_at)
        if answered_at:
            answered.add(person)
    uploads = Dataset.objects.filter(organization=organization_id, created_by__in=asked)
    answered |= {person for person, at in uploads.values_list("created_by", "created_at") if at > asked[person]}
    return _rate(len(answered), len(asked))


def _delivery(organization_id: UUID) -> Rate:
    newest = (
        StoredAnalysis.objects.filter(organization=organization_id, kind="savings", parameters={}, state="ready")
        .order_by("dataset", "-id")
        .distinct("dataset")
        .values_list("result__sufficiency__overall__state", "result__strategies")
    )
    incomplete = [strategies for state, strategies in newest if state in INCOMPLETE]
    return _rate(sum(map(_delivers, incomplete)), len(incomplete))


def _delivers(strategies: Iterable[dict[str, Any]]) -> bool:
    return any(not each["up_to"] and Decimal(each["saving_usd"] or 0) > 0 for each in strategies)


def _accuracy(stated_and_held: Iterable[tuple[float | None, bool]]) -> Accuracy:
    record = [(confidence, held) for confidence, held in stated_and_held if confidence is not None]
    if not record:
        return Accuracy(value=None, brier=None, stated=None, came_true=None, outcomes=0)
    stated, held = [confidence for confidence, _ in record], [float(true) for _, true in record]
    varied = len(record) >= FEW and len(set(stated)) > 1 and len(set(held)) > 1
    return Accuracy(
        value=round(correlation(stated, held), 4) if varied else None,
        brier=round(sum((one - other) ** 2 for one, other in zip(stated, held, strict=True)) / len(record), 4),
        stated=round(sum(stated) / len(record), 4),
        came_true=round(sum(held) / len(record), 4),
        outcomes=len(record),
    )


def _time_to_value(organization_id: UUID) -> Durations:
    """Medians over the datasets that came so far."""
    uploads = dict(Dataset.objects.filter(organization=organization_id, continues=None).values_list("id", "created_at"))
    advice = Recommendation.objects.filter(organization=organization_id).values("dataset")
    firsts = list(
        advice.annotate(
            made=Min("created_at"), adopted=Min("adopted_at"), measured=Min("outcomes__measured_at")
        ).values_list("dataset", "made", "adopted", "measured")
    )

    def typical(moments: Iterable[tuple[UUID, datetime | None]]) -> float | None:
        lengths = [(moment - uploads[dataset]).total_seconds() for dataset, moment in moments if moment]
        return median(lengths) if lengths else None

    return Durations(
        first_recommendation=typical((row[0], row[1]) for row in firsts),
        first_adoption=typical((row[0], row[2]) for row in firsts),
        first_measured_saving=typical((row[0], row[3]) for row in firsts),
    )


def _rate(of: int, out_of: int) -> Rate:
    return Rate(value=round(of / out_of, 4) if out_of else None, of=of, out_of=out_of)
