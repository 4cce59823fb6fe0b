"""Work for tool workers and import workers. A message carries a row's id; the row decides what is to be done."""

from datetime import timedelta
from uuid import UUID

import structlog
from celery import shared_task
from django.db import transaction
from django.utils import timezone
from kombu.exceptions import OperationalError

from apps.optimization import analyses, imports
from apps.optimization.limits import TookTooLong
from apps.optimization.models import Dataset, StoredAnalysis

LIVE_ANALYSED_EVERY = timedelta(hours=1)

log = structlog.get_logger(__name__)


@shared_task(name="optimization.import_dataset")
def import_dataset(*, dataset: str) -> None:
    """Import one file and have its dataset analysed; does nothing if it is not queued."""
    imports.run_import(UUID(dataset), have_analysed)


@shared_task(name="optimization.import_small")
def import_small(*, dataset: str) -> None:
    """Import one file that should not take long; one that does is left to the tool workers."""
    try:
        imports.run_import(UUID(dataset), have_analysed, seconds=imports.SMALL_SECONDS)
    except TookTooLong:
        ring_import(UUID(dataset))


@shared_task(name="optimization.run_analysis")
def run_analysis(*, analysis: str) -> None:
    """Compute one analysis; does nothing if it is not queued."""
    analyses.run_analysis(UUID(analysis))


def have_analysed(ready: Dataset) -> None:
    """Queue the analysis of a dataset whose file was imported; a bill has none, and a live one has one an hour."""
    if ready.kind == Dataset.Kind.BILL or (ready.live and _analysed_lately(ready)):
        return
    analysis, made = analyses.kept(ready.continues or ready, "savings", {}, by=ready.created_by)
    if made:
        transaction.on_commit(lambda: ring_analysis(analysis.pk))


def _analysed_lately(ready: Dataset) -> bool:
    since = timezone.now() - LIVE_ANALYSED_EVERY
    return StoredAnalysis.objects.filter(dataset=ready.continues or ready, created_at__gt=since).exists()


def ring_import(dataset_id: UUID) -> None:
    """Wake a worker, for a small file one that does no long work; a ring that is lost is repeated by the sweep."""
    dataset = Dataset.objects.filter(pk=dataset_id).first()
    if dataset is None:
        return
    task = import_small if imports.is_small(dataset) else import_dataset
    try:
        task.apply_async(kwargs={"dataset": str(dataset_id)}, retry=False)
    except OperationalError as error:
        log.warning("Import not rung for; the sweep will", dataset=str(dataset_id), reason=str(error))


def ring_analysis(analysis_id: UUID) -> None:
    """Wake a tool worker; a ring that is lost is repeated by the sweep."""
    try:
        run_analysis.apply_async(kwargs={"analysis": str(analysis_id)}, retry=False)
    except OperationalError as error:
        log.warning("Analysis not rung for; the sweep will", analysis=str(analysis_id), reason=str(error))
