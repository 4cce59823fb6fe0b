"""Live calls come in a file a minute; many small files of a dataset are put together into few large ones."""

import hashlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction
from uuid6 import uuid7

from apps.optimization import storage
from apps.optimization.calls import QUARTER
from apps.optimization.conversion import FORMAT, KEPT_REJECTS, SCRATCH
from apps.optimization.duck import confined, quoted
from apps.optimization.models import Dataset

SMALL_FILES = 60  # of a dataset; more are put together
LARGE = 1_000_000  # calls of a file that is not put together with others any more

log = structlog.get_logger(__name__)


def compact(first: Dataset) -> int:
    """Put the small live files of a dataset together, if there are many; how many became one.

    A crash leaves the files as they were, or as they become, and a folder that the sweep finds abandoned.
    """
    files = first.later_files.filter(live=True, state=Dataset.State.READY, rows__lt=LARGE).order_by("created_at", "id")
    if files.count() < SMALL_FILES:
        return 0
    with storage.rewriting(first) as nobody_reads:
        if not nobody_reads:
            return 0  # the next sweep tries again
        small = list(files)  # as they are now: until here, old calls may have left them
        together = _together(small)
        _write(together, small)
        with transaction.atomic():
            # Before its files, as a deletion does; if that was first, they are gone too.
            Dataset.objects.select_for_update(no_key=True).filter(pk=first.pk).first()
            _, gone = Dataset.objects.filter(pk__in=[file.pk for file in small]).delete()
            if gone.get(Dataset._meta.label) == len(small):
                together.save(force_insert=True)
            else:
                transaction.set_rollback(True)  # one was deleted meanwhile
    if together._state.adding:
        storage.remove(storage.folder_of(together))
        return 0
    log.info("Files put together", dataset=str(first.pk), files=len(small), calls=together.rows)
    return len(small)


def _together(small: Sequence[Dataset]) -> Dataset:
    """The row of the file that is made of `small`, in the place of the oldest of them; not saved."""
    oldest = small[0]
    one: Dataset = Dataset.objects.get(pk=oldest.pk)
    one.pk, one._state.adding = uuid7(), True
    one.sha256 = hashlib.sha256("".join(file.sha256 for file in small).encode()).hexdigest()
    one.columns = dict(chain.from_iterable(file.columns.items() for file in small))
    one.notes = _distinct(chain.from_iterable(file.notes for file in small))
    one.conventions = _distinct(chain.from_iterable(file.conventions for file in small))
    one.rejects = list(chain.from_iterable(file.rejects for file in small))[:KEPT_REJECTS]
    for total in ("rows", "rejected_rows", "known_rows", "file_bytes"):
        setattr(one, total, sum(getattr(file, total) for file in small))
    one.first_call_at = min((file.first_call_at for file in small if file.first_call_at), default=None)
    one.last_call_at = max((file.last_call_at for file in small if file.last_call_at), default=None)
    one.prices, one.finished_at = small[-1].prices, small[-1].finished_at
    return one


def _distinct(values: Any) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _write(together: Dataset, small: Sequence[Dataset]) -> None:
    target = storage.folder_of(together)
    target.mkdir(parents=True)
    sources = [storage.folder_of(file) / storage.CALLS for file in small]
    with TemporaryDirectory(prefix=SCRATCH, dir=target) as scratch:
        made = Path(scratch) / storage.CALLS
        with confined(
            folders=tuple(source.parent for source in sources),
            scratch=Path(scratch),
            memory_mib=settings.ANALYSIS_MEMORY_MIB,
        ) as connection:
            files = ", ".join(quoted(str(source.resolve())) for source in sources)
            # Of files older than the column, the union would say nothing where `reading` says what follows.
            connection.execute(
                f"""COPY (SELECT COLUMNS(lambda name: name <> 'quarter'),
                                 ({QUARTER.format(started_at="started_at")})::INTEGER AS quarter
                          FROM read_parquet([{files}], union_by_name = true))
                    TO {quoted(str(made.resolve()))} {FORMAT}"""  # noqa: S608
            )
        made.replace(target / storage.CALLS)
