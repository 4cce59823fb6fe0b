"""One import's life: queued -> importing -> ready or failed. Every arrow is a compare-and-set with the attempt."""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from threading import Event, Thread
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import DatabaseError, DataError, connection, transaction
from django.db.models import F, QuerySet
from django.utils import timezone

from apps.errors import NetraError
from apps.llm.services import catalogue_for
from apps.optimization import storage
from apps.optimization.conversion import Conversion, NoCalls, Order, convert
from apps.optimization.limits import MAX_STAGED
from apps.optimization.models import Dataset
from apps.optimization.readers import Reject
from apps.realtime.notifier import publish_to_user

log = structlog.get_logger(__name__)

TELL_EVERY = 0.2  # seconds between two frames of progress
BEAT = 10.0  # seconds between two signs of life
SILENT = timedelta(seconds=60)  # without a sign of life, the import is taken for dead
UNHEARD = timedelta(seconds=10)  # a queued import that nobody took up by then is rung for again
MAX_ATTEMPTS = 3


class Superseded(NetraError):
    """The dataset was deleted, or another worker took the import over."""

    code = "import.superseded"
    status = 409


class Interrupted(NetraError):
    """The import died several times."""

    code = "import.interrupted"
    status = 500


class Unstorable(NetraError):
    """The database refuses what was found in the file."""

    code = "import.unstorable"
    status = 422


def run_import(dataset_id: UUID) -> None:
    """Import a queued dataset, if no other worker does; calling it twice does no harm."""
    dataset = _claim(dataset_id)
    if dataset is None:
        return
    try:
        with _pulse(dataset):
            conversion = convert(_order(dataset), _progress(dataset))
    except Exception as error:
        _give_up(dataset, error)
    else:
        _keep(dataset, conversion)


def _keep(dataset: Dataset, conversion: Conversion) -> None:
    """Settle an import that worked; one whose results cannot be stored failed, since they never can be."""
    try:
        _finish(dataset, conversion)
    except (DataError, ValueError) as error:
        log.error("Import not stored", dataset=str(dataset.pk), exc_info=error)
        _fail(dataset, _unstorable())


def _unstorable() -> Unstorable:
    return Unstorable(
        "The file was read, but what it holds cannot be stored: a name or a number in it is none that a database "
        "takes. Look at the names of its columns and models, correct them and upload the file again."
    )


def _give_up(dataset: Dataset, error: Exception) -> None:
    """Settle a failed import; raises the error again if it is a bug."""
    if isinstance(error, Superseded) or not _held(dataset).exists():
        # The files of a deleted dataset go away under its import, so any error may be how that looks from inside.
        log.info("Import given up", dataset=str(dataset.pk), attempt=dataset.attempt)
        storage.remove_orphan(dataset)
    elif isinstance(error, NetraError):
        _fail(dataset, error)
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        _fail(dataset, storage.NoRoom("The disk of this Netra is full. Free some space and upload the file again."))
    else:
        log.error("Import failed", dataset=str(dataset.pk), exc_info=error)
        _fail(dataset, Interrupted("The import failed on our side. Upload the file again; if it fails again, tell us."))
        raise error


def requeue_silent(now: datetime) -> list[UUID]:
    """Unfinished imports without a sign of life, queued again; those that died too often fail. Rows to ring."""
    silent = Dataset.objects.filter(progress_at__lt=now - SILENT)
    for dataset in silent.filter(state=Dataset.State.IMPORTING, attempt__gte=MAX_ATTEMPTS):
        _fail(dataset, Interrupted("The import was interrupted three times. Upload the file again."))
    silent.filter(state=Dataset.State.IMPORTING).update(state=Dataset.State.QUEUED, progress_at=now - 2 * UNHEARD)
    waiting = Dataset.objects.filter(state=Dataset.State.QUEUED, progress_at__lt=now - UNHEARD)
    found = list(waiting.values_list("pk", flat=True))
    waiting.update(progress_at=now)
    return found


def frame(dataset: Dataset) -> dict[str, Any]:
    """The dataset as `datasets/{id}/` shows it; the body of a `dataset_progress` frame too."""
    return {
        "id": str(dataset.pk),
        "name": dataset.name,
        "file_name": dataset.file_name,
        "file_bytes": dataset.file_bytes,
        "metadata_only": dataset.metadata_only,
        "price_as": dataset.price_as,
        "mapping": dataset.mapping,
        "state": dataset.state,
        "progress": dataset.progress,
        "source": dataset.source,
        "columns": dataset.columns,
        "conventions": dataset.conventions,
        "notes": dataset.notes,
        "rows": dataset.rows,
        "rejected_rows": dataset.rejected_rows,
        "rejects": dataset.rejects,
        "first_call_at": _iso(dataset.first_call_at),
        "last_call_at": _iso(dataset.last_call_at),
        "prices": dataset.prices,
        "error": {"code": dataset.error_code, "detail": dataset.error_detail} if dataset.error_code else None,
        "created_by": str(dataset.created_by),
        "created_at": _iso(dataset.created_at),
        "finished_at": _iso(dataset.finished_at),
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat().replace("+00:00", "Z") if moment else None


def _claim(dataset_id: UUID) -> Dataset | None:
    """The dataset, now importing under an attempt of its own; None if it is not queued."""
    claimed = Dataset.objects.filter(pk=dataset_id, state=Dataset.State.QUEUED).update(
        state=Dataset.State.IMPORTING, attempt=F("attempt") + 1, progress=0, progress_at=timezone.now()
    )
    found: Dataset | None = Dataset.objects.filter(pk=dataset_id).first() if claimed else None
    return found


def _order(dataset: Dataset) -> Order:
    place = storage.folder_of(dataset)
    storage.clear_scratch(place)
    return Order(
        source=place / storage.UPLOAD,
        target=place / storage.CALLS,
        catalogue=catalogue_for(organization_id=dataset.organization_id),
        now=timezone.now(),
        memory_mib=settings.ANALYSIS_MEMORY_MIB,
        mapping=dataset.mapping,
        metadata_only=dataset.metadata_only,
        price_as=dataset.price_as or None,
        staged_bytes=max(MAX_STAGED, 4 * settings.MAX_UPLOAD_BYTES),
    )


def _held(dataset: Dataset) -> QuerySet[Dataset]:
    """The dataset as long as this attempt owns it."""
    held: QuerySet[Dataset] = Dataset.objects.filter(
        pk=dataset.pk, state=Dataset.State.IMPORTING, attempt=dataset.attempt
    )
    return held


@contextmanager
def _pulse(dataset: Dataset) -> Iterator[None]:
    """Show life while one long statement runs, from a thread and a connection of its own."""
    stop = Event()
    thread = Thread(target=_beat, args=(dataset, stop), daemon=True, name="import-pulse")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _beat(dataset: Dataset, stop: Event) -> None:
    while not stop.wait(BEAT):
        try:
            _held(dataset).update(progress_at=timezone.now())
        except DatabaseError as error:
            # The next beat tries again; the import itself meets the failure where it writes.
            log.warning("Import pulse missed", dataset=str(dataset.pk), reason=str(error))
        finally:
            connection.close()


def _progress(dataset: Dataset) -> Callable[[float], None]:
    """A callback that keeps the import alive and its owner informed, at most five times a second."""
    told = time.monotonic()

    def tell(percent: float) -> None:
        nonlocal told
        if time.monotonic() - told < TELL_EVERY:
            return
        told = time.monotonic()
        dataset.progress = min(99, int(percent))
        if not _held(dataset).update(progress=dataset.progress, progress_at=timezone.now()):
            raise Superseded("The dataset was deleted, or another worker imports it.")
        _publish(dataset)

    return tell


def _finish(dataset: Dataset, conversion: Conversion) -> None:
    found = {
        "source": conversion.source,
        "columns": conversion.columns,
        "conventions": [asdict(verdict) for verdict in conversion.verdicts],
        "notes": list(conversion.notes),
        "rows": conversion.rows,
        "rejected_rows": conversion.rejected,
        "rejects": _told(conversion.rejects),
        "first_call_at": conversion.first_call_at,
        "last_call_at": conversion.last_call_at,
        "prices": conversion.prices,
        "progress": 100,
    }
    if _settle(dataset, state=Dataset.State.READY, **found):
        (storage.folder_of(dataset) / storage.UPLOAD).unlink(missing_ok=True)


def _fail(dataset: Dataset, error: NetraError) -> None:
    rejects, rejected = (error.rejects, error.rejected) if isinstance(error, NoCalls) else ((), 0)
    found = {"error_code": error.code, "error_detail": error.detail}
    try:
        settled = _settle(dataset, state=Dataset.State.FAILED, **found, rejects=_told(rejects), rejected_rows=rejected)
    except (DataError, ValueError):
        if isinstance(error, Unstorable):
            raise
        _fail(dataset, _unstorable())
    else:
        if settled:
            storage.remove(storage.folder_of(dataset))


def _settle(dataset: Dataset, **found: Any) -> bool:
    """Write the end of an import and tell its owner, unless it is another's by now; files of a deleted one go."""
    with transaction.atomic():
        settled = _held(dataset).update(**found, progress_at=timezone.now(), finished_at=timezone.now())
    if settled:
        dataset.refresh_from_db()
        _publish(dataset)
    else:
        storage.remove_orphan(dataset)
    return bool(settled)


def _publish(dataset: Dataset) -> None:
    publish_to_user(user_id=dataset.created_by, frame={"type": "dataset_progress", **frame(dataset)})


def _told(rejects: tuple[Reject, ...]) -> list[dict[str, Any]]:
    return [asdict(reject) for reject in rejects]
