"""Calls that are too old leave their dataset: its files are written anew without them."""

from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog
from django.conf import settings
from django.utils import timezone

from apps.optimization import storage
from apps.optimization.conversion import FORMAT, SCRATCH
from apps.optimization.datasets import files_of
from apps.optimization.duck import confined, quoted
from apps.optimization.models import Dataset

log = structlog.get_logger(__name__)


def remove_old_calls(now: datetime) -> int:
    """Remove the calls that their dataset's owner does not want to keep; how many. For the sweep.

    Calls without a time are as old as the upload of their file. A dataset that is being read waits for the next sweep.
    """
    limited = Dataset.objects.filter(
        keep_days__isnull=False, continues=None, state=Dataset.State.READY, kind=Dataset.Kind.CALLS
    )
    return sum(_forget(dataset, before=now - timedelta(days=dataset.keep_days)) for dataset in limited)


def _forget(dataset: Dataset, *, before: datetime) -> int:
    with storage.rewriting(dataset) as nobody_reads:
        if not nobody_reads:
            return 0
        return sum(_trim(file, before=before) for file in files_of(dataset) if _may_hold(file, before=before))


def _may_hold(file: Dataset, *, before: datetime) -> bool:
    return file.rows > 0 and (file.first_call_at or file.created_at) < before


def _trim(file: Dataset, *, before: datetime) -> int:
    """Write one file anew without the calls before `before`; how many were removed."""
    target = storage.folder_of(file) / storage.CALLS
    with TemporaryDirectory(prefix=SCRATCH, dir=target.parent) as scratch:
        kept = Path(scratch) / target.name
        with confined(
            folders=(target.parent,), scratch=Path(scratch), memory_mib=settings.ANALYSIS_MEMORY_MIB
        ) as connection:
            source = f"read_parquet({quoted(str(target.resolve()))})"
            connection.execute(
                f"""COPY (SELECT * FROM {source} WHERE coalesce(started_at, ?) >= ? ORDER BY line)
                    TO {quoted(str(kept.resolve()))} {FORMAT}""",  # noqa: S608
                [_naive(file.created_at), _naive(before)],
            )
            rows, first, last = connection.execute(
                f"SELECT count(*), min(started_at), max(started_at) FROM read_parquet({quoted(str(kept.resolve()))})"  # noqa: S608
            ).fetchall()[0]
        kept.replace(target)
    removed: int = file.rows - rows
    moments = {
        "first_call_at": first and timezone.make_aware(first),
        "last_call_at": last and timezone.make_aware(last),
    }
    Dataset.objects.filter(pk=file.pk).update(rows=rows, **moments)
    log.info("Old calls removed", dataset=str(file.pk), calls=removed)
    return removed


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(timezone.get_default_timezone()).replace(tzinfo=None)
