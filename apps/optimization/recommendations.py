"""What to do about it: made from analyses, decided on by people, measured on the calls that came after."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, cast

from django.db.models import QuerySet

from apps.optimization.confidence import calibrated, prior
from apps.optimization.models import Outcome, Recommendation, StoredAnalysis
from apps.optimization.playbook import PLAYS
from apps.optimization.results import State

MONTH = timedelta(days=30)
SHORTEST = timedelta(days=7)  # a log that is shorter says too little about a month


def renew(analysis: StoredAnalysis) -> None:
    """Make the open recommendations of a dataset those of this analysis; decided ones stay as they are."""
    found = _found(analysis.result or {})
    undecided = Recommendation.objects.filter(dataset=analysis.dataset_id, state=Recommendation.State.OPEN)
    undecided.exclude(strategy__in=[strategy["name"] for strategy in found]).delete()
    adopted = set(
        Recommendation.objects.filter(dataset=analysis.dataset_id, state=Recommendation.State.ADOPTED).values_list(
            "strategy", flat=True
        )
    )
    record = _record(analysis)
    for strategy in found:
        if strategy["name"] not in adopted:
            undecided.update_or_create(
                strategy=strategy["name"],
                state=Recommendation.State.OPEN,
                defaults={"dataset_id": analysis.dataset_id, **_written(analysis, strategy, record)},
            )


def advise(analysis: StoredAnalysis) -> list[Recommendation]:
    """What an analysis recommends, ranked: rows that are not stored, also of an analysis that was asked with wishes."""
    record = _record(analysis)
    return ranked(
        Recommendation(
            dataset_id=analysis.dataset_id, strategy=strategy["name"], **_written(analysis, strategy, record)
        )
        for strategy in _found(analysis.result or {})
    )


def ranked(rows: Iterable[Recommendation]) -> list[Recommendation]:
    """Proven savings before ceilings; within each, the most dollars per day of effort first."""
    return sorted(rows, key=lambda row: (row.detail["up_to"], -per_day(row), row.strategy))


def per_day(row: Recommendation) -> Decimal:
    """Dollars (per month where it is known, else on the log) for each day of effort."""
    saving: Decimal = row.saving_usd if row.monthly_usd is None else row.monthly_usd
    return saving / Decimal(str(row.detail["effort_days"]))


def of_organization(rows: QuerySet[Recommendation]) -> list[Recommendation]:
    """`rows`, ranked, with their datasets. One query."""
    return ranked(rows.select_related("dataset"))


def _found(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The strategies of an analysis that would save something and that we know how to put to work."""
    return [
        strategy
        for strategy in result.get("strategies", ())
        if strategy["name"] in PLAYS and Decimal(strategy["saving_usd"] or 0) > 0
    ]


def _written(analysis: StoredAnalysis, strategy: Mapping[str, Any], record: list[tuple[float, bool]]) -> dict[str, Any]:
    result = analysis.result or {}
    assessed = result["sufficiency"].get(strategy["name"], {"score": 0, "state": "insufficient"})
    stated = prior(assessed["score"], assessed["state"])
    learnt = calibrated(stated, record)
    saving = Decimal(strategy["saving_usd"])
    return {
        "organization_id": analysis.organization_id,
        "analysis": analysis,
        "title": strategy["title"],
        "saving_usd": saving,
        "low_usd": strategy["low"],
        "high_usd": strategy["high"],
        "monthly_usd": monthly(saving, result["overview"], strategy["detail"].get("counted_since")),
        "evidence": strategy["evidence"],
        "sufficiency": assessed["score"],
        "sufficiency_state": assessed["state"],
        # How complete data is says nothing about whether a ceiling can be reached.
        "confidence": None if strategy["up_to"] else stated if learnt is None else learnt,
        "calibrated": learnt is not None,
        "detail": PLAYS[strategy["name"]].document()
        | {"up_to": strategy["up_to"], "assumptions": strategy["assumptions"], "latency": strategy["latency_effect"]},
    }


def monthly(saving: Decimal, overview: Mapping[str, Any], since: str | None = None) -> Decimal | None:
    """A saving on a log, or on its calls `since` a moment, as dollars for 30 days of the same; None below a week."""
    first, last = since or overview["first_call_at"], overview["last_call_at"]
    if first is None or last is None:
        return None
    length = datetime.fromisoformat(last) - datetime.fromisoformat(first)
    if length < SHORTEST:
        return None
    return (saving * Decimal(str(MONTH / length))).quantize(Decimal("0.000001"))


def _record(analysis: StoredAnalysis) -> list[tuple[float, bool]]:
    """(confidence stated, whether it came true) of every outcome of the organization; a ceiling stated none."""
    outcomes = Outcome.objects.filter(
        recommendation__organization=analysis.organization_id, recommendation__confidence__isnull=False
    )
    return [
        (prior(score, cast(State, state)), held)
        for score, state, held in outcomes.values_list(
            "recommendation__sufficiency", "recommendation__sufficiency_state", "held"
        )
    ]
