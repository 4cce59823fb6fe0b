"""Analyses that are kept: computed once by a tool worker, with everything needed to compute them again."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog
from django.db import transaction
from django.utils import timezone
from pydantic import BaseModel, ValidationError

from apps.errors import Invalid, NetraError
from apps.llm.services import catalogue_for
from apps.optimization import jobs, outcomes, recommendations
from apps.optimization.analysis import analyse
from apps.optimization.calls import Calls
from apps.optimization.datasets import bill_of, bounded, content_hash, files_of, open_dataset
from apps.optimization.limits import MAX_SECONDS
from apps.optimization.models import Dataset, Recommendation, StoredAnalysis
from apps.optimization.reconciliation import reconcile
from apps.optimization.results import Assessment, Result
from apps.optimization.scenarios import (
    Asked,
    Beside,
    BesideBill,
    Periods,
    Scenario,
    compare_periods,
    pareto,
    refuse_unknown_features,
    told_waits,
    what_if,
)
from apps.optimization.sufficiency import sufficiency
from apps.realtime.notifier import publish_to_user

log = structlog.get_logger(__name__)

Progress = Callable[[float], None]  # percent, 0-100
TELL_EVERY = 0.5  # seconds between two frames of progress


class UnknownAnalysis(Invalid):
    """Nothing of this kind can be computed."""

    code = "analysis.unknown"


class ImpossibleQuestion(Invalid):
    """The parameters of an analysis mean nothing."""

    code = "analysis.parameters"


class AnalysisInterrupted(NetraError):
    """The computation died several times."""

    code = "analysis.interrupted"
    status = 500


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Something that can be computed: what is asked, and what answers it."""

    asked: type[Result]
    compute: Callable[[Calls, Any, StoredAnalysis, Progress], BaseModel]


def _savings(calls: Calls, asked: Asked, analysis: StoredAnalysis, progress: Progress) -> BaseModel:
    found = analyse(
        calls,
        asked.options(),
        ceilings=asked.ceilings,
        capture_rate=_capture_rate(calls, asked.bill, analysis),
        progress=progress,
    )
    assumed = (*found.overview.assumptions, *told_waits(calls, asked))
    return found.model_copy(update={"overview": found.overview.model_copy(update={"assumptions": assumed})})


def _sufficiency(calls: Calls, asked: Beside, analysis: StoredAnalysis, _: Progress) -> BaseModel:
    return Assessment(sufficiency=sufficiency(calls, capture_rate=_capture_rate(calls, asked.bill, analysis)))


def _reconciliation(calls: Calls, asked: BesideBill, analysis: StoredAnalysis, _: Progress) -> BaseModel:
    return reconcile(calls, bill_of(Dataset.objects.get(pk=asked.bill, organization=analysis.organization_id)))


def _capture_rate(calls: Calls, bill: UUID | None, analysis: StoredAnalysis) -> float | None:
    """Captured / billed; None where no bill of the organization was named."""
    found = Dataset.objects.filter(pk=bill, organization=analysis.organization_id).first() if bill else None
    return reconcile(calls, bill_of(found)).rate if found else None


PLAIN = "savings"  # computed of every dataset without being asked for, and then measures what is adopted
KINDS: dict[str, Kind] = {
    PLAIN: Kind(asked=Asked, compute=_savings),
    "what_if": Kind(asked=Scenario, compute=lambda calls, asked, _, tell: what_if(calls, asked, tell)),
    "pareto": Kind(asked=Asked, compute=lambda calls, asked, _, tell: pareto(calls, asked, tell)),
    "sufficiency": Kind(asked=Beside, compute=_sufficiency),
    "reconciliation": Kind(asked=BesideBill, compute=_reconciliation),
    "changes": Kind(asked=Periods, compute=lambda calls, asked, _, __: compare_periods(calls, asked)),
}


@cache
def code_version() -> str:
    """What names the code that computes: a hash of its sources, so that it changes whenever they do."""
    digest = hashlib.sha256()
    for app in ("optimization", "llm"):
        for path in sorted((Path(__file__).resolve().parents[1] / app).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def kept(dataset: Dataset, kind: str, parameters: Mapping[str, Any], *, by: UUID) -> tuple[StoredAnalysis, bool]:
    """The analysis of these inputs, and whether it was made now and has to be rung for.

    Raises:
        UnknownAnalysis: there is no such kind.
        ImpossibleQuestion: the parameters are none that it takes.
    """
    if kind not in KINDS:
        raise UnknownAnalysis(f"There is no analysis {kind!r}; there are {', '.join(sorted(KINDS))}.")
    facts = _facts(dataset, kind, understood(kind, parameters).model_dump(mode="json", exclude_defaults=True))
    inputs = _name_of(dataset, facts)
    return StoredAnalysis.objects.exclude(
        state__in=[StoredAnalysis.State.FAILED, StoredAnalysis.State.CANCELLED]
    ).get_or_create(
        dataset=dataset,
        inputs=inputs,
        defaults={**facts, "organization_id": dataset.organization_id, "created_by": by},
    )


def _facts(dataset: Dataset, kind: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """All that a result depends on, as it is now."""
    return {
        "kind": kind,
        "parameters": asked,
        "dataset_hash": content_hash(dataset),
        "prices": catalogue_for(organization_id=dataset.organization_id).version,
        "code_version": code_version(),
    }


def _name_of(dataset: Dataset, facts: Mapping[str, Any]) -> str:
    """What names a result. One that measures what is adopted is another one where more of it can be measured."""
    measured = _measurable(dataset) if facts["kind"] == PLAIN and not facts["parameters"] else []
    named = {**facts, "measured": measured} if measured else facts
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()


def _measurable(dataset: Dataset) -> list[str]:
    """What is adopted of the dataset's advice and has calls since, from the day on."""
    last = max((file.last_call_at for file in files_of(dataset) if file.last_call_at), default=None)
    if last is None:
        return []
    days = last.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    adopted = Recommendation.objects.filter(dataset=dataset, state=Recommendation.State.ADOPTED, adopted_at__lt=days)
    return sorted(" ".join(map(str, row)) for row in adopted.values_list("strategy", "needs", "adopted_at"))


def is_current(analysis: StoredAnalysis) -> bool:
    """Whether calls, prices and code are still those that it was computed from."""
    facts = _facts(analysis.dataset, analysis.kind, analysis.parameters)
    return analysis.inputs == _name_of(analysis.dataset, facts)


def understood(kind: str, parameters: Mapping[str, Any]) -> Result:
    """The parameters of a question, checked.

    Raises:
        ImpossibleQuestion: they are none that it takes; the first reason is told.
    """
    try:
        asked = KINDS[kind].asked.model_validate(parameters)
        if isinstance(asked, Asked):
            asked.options()
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "parameters"
        raise ImpossibleQuestion(f"{place}: {first['msg']}.") from None
    return asked


def run_analysis(analysis_id: UUID) -> None:
    """Compute a queued analysis, if no other worker does; calling it twice does no harm."""
    analysis = jobs.claim(StoredAnalysis, analysis_id)
    if analysis:
        run_claimed(analysis)


def run_claimed(analysis: StoredAnalysis) -> None:
    """Compute an analysis that this worker has claimed."""
    started = time.monotonic()
    try:
        with jobs.pulse(analysis), open_dataset(analysis.dataset) as calls, bounded(calls, MAX_SECONDS):
            tell = jobs.reporting(analysis, lambda: publish(analysis), every=TELL_EVERY)
            asked = understood(analysis.kind, analysis.parameters)
            if isinstance(asked, Asked):
                # A typo in what nothing may touch would touch it; the other wishes are told to change nothing.
                refuse_unknown_features(calls, asked.keep)
            result = KINDS[analysis.kind].compute(calls, asked, analysis, tell)
            if is_plain(analysis):
                outcomes.measure(analysis.dataset, calls)
        _keep(analysis, result, time.monotonic() - started)
    except Exception as error:
        _give_up(analysis, error)


def _keep(analysis: StoredAnalysis, result: BaseModel, seconds: float) -> None:
    document = result.model_dump(mode="json")
    with transaction.atomic():
        # A deletion takes the dataset first and its analyses then; in another order the two could wait for each other.
        Dataset.objects.select_for_update(no_key=True).filter(pk=analysis.dataset_id).first()
        kept = jobs.settle(analysis, state=StoredAnalysis.State.READY, progress=100, result=document, seconds=seconds)
        if kept and is_plain(analysis):
            recommendations.renew(analysis)
    if kept:
        publish(analysis)


def is_plain(analysis: StoredAnalysis) -> bool:
    """Whether it is what is computed of every dataset, without wishes."""
    return analysis.kind == PLAIN and not analysis.parameters


def _give_up(analysis: StoredAnalysis, error: Exception) -> None:
    """Settle a failed computation; raises the error again if it is a bug."""
    if isinstance(error, jobs.Superseded) or not jobs.held(analysis).exists():
        log.info("Analysis given up", analysis=str(analysis.pk), attempt=analysis.attempt)
    elif isinstance(error, NetraError):
        _fail(analysis, error)
    else:
        log.error("Analysis failed", analysis=str(analysis.pk), exc_info=error)
        _fail(analysis, AnalysisInterrupted("The analysis failed on our side. Ask for it again; then tell us."))
        raise error


def _fail(analysis: StoredAnalysis, error: NetraError) -> None:
    if jobs.settle(analysis, state=StoredAnalysis.State.FAILED, error_code=error.code, error_detail=error.detail):
        publish(analysis)


def requeue_silent(now: datetime) -> list[UUID]:
    """Unfinished analyses without a sign of life, queued again; those that died too often fail. Rows to ring for."""
    interrupted = AnalysisInterrupted("The analysis was interrupted three times. Ask for it again.")
    return jobs.requeue_silent(StoredAnalysis, now, lambda analysis: _fail(analysis, interrupted))


def frame(analysis: StoredAnalysis) -> dict[str, Any]:
    """The analysis as `analyses/{id}/` shows it, without its result; the body of an `analysis_progress` frame too."""
    error = {"code": analysis.error_code, "detail": analysis.error_detail} if analysis.error_code else None
    return {
        "id": str(analysis.pk),
        "dataset": str(analysis.dataset_id),
        "kind": analysis.kind,
        "parameters": analysis.parameters,
        "state": analysis.state,
        "progress": analysis.progress,
        "inputs": analysis.inputs,
        "dataset_hash": analysis.dataset_hash,
        "prices": analysis.prices,
        "code_version": analysis.code_version,
        "seconds": analysis.seconds,
        "error": error,
        "created_by": str(analysis.created_by),
        "created_at": _iso(analysis.created_at),
        "finished_at": _iso(analysis.finished_at),
    }


def publish(analysis: StoredAnalysis) -> None:
    """Tell who asked for it how it stands."""
    publish_to_user(user_id=analysis.created_by, frame={"type": "analysis_progress", **frame(analysis)})


def _iso(moment: datetime | None) -> str | None:
    return moment.astimezone(timezone.get_default_timezone()).isoformat().replace("+00:00", "Z") if moment else None
