"""Work for tool workers and import workers. A message only wakes one; whose turn it is, is told by the rows.

Messages are heard in the order in which they came, so one that named its work would keep it behind all of another's.
"""

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import structlog
from celery import shared_task
from django.db import transaction
from django.utils import timezone
from kombu.exceptions import OperationalError

from apps.optimization import analyses, imports, jobs
from apps.optimization.limits import TookTooLong
from apps.optimization.models import Dataset, StoredAnalysis

LIVE_ANALYSED_EVERY = timedelta(hours=1)

log = structlog.get_logger(__name__)


@shared_task(name="optimization.work")
def work() -> None:
    """Do one of the imports and analyses that wait, whichever's turn it is; nothing if none waits."""
    job = jobs.claim_next(_long_work, _claimed)
    if isinstance(job, Dataset):
        imports.run_claimed(job, have_analysed)
    elif job:
        analyses.run_claimed(job)


@shared_task(name="optimization.import_small")
def import_small() -> None:
    """Do one of the imports that should not take long; one that does is left to the tool workers."""
    dataset = jobs.claim_next(_small_imports, lambda dataset: imports.claimed(dataset.pk))
    if dataset is None:
        return
    try:
        imports.run_claimed(dataset, have_analysed, seconds=imports.SMALL_SECONDS)
    except TookTooLong:
        ring_import(dataset.pk)


def _small_imports() -> Iterator[Dataset]:
    return (dataset for dataset in jobs.in_turn(Dataset) if imports.is_small(dataset))


def _long_work() -> Iterator[Dataset | StoredAnalysis]:
    """What tool workers do. The rings for it are as many, so a small file is never taken away from its own."""
    waiting = jobs.in_turn(Dataset, StoredAnalysis)
    return (job for job in waiting if not (isinstance(job, Dataset) and imports.is_small(job)))


def _claimed(job: Dataset | StoredAnalysis) -> Dataset | StoredAnalysis | None:
    return imports.claimed(job.pk) if isinstance(job, Dataset) else jobs.claim(StoredAnalysis, job.pk)


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
    task = import_small if imports.is_small(dataset) else work
    try:
        task.apply_async(retry=False)
    except OperationalError as error:
        log.warning("Import not rung for; the sweep will", dataset=str(dataset_id), reason=str(error))


def ring_analysis(analysis_id: UUID) -> None:
    """Wake a tool worker; a ring that is lost is repeated by the sweep."""
    try:
        work.apply_async(retry=False)
    except OperationalError as error:
        log.warning("Analysis not rung for; the sweep will", analysis=str(analysis_id), reason=str(error))
