"""One import: a job that turns an upload into calls, and what its dataset knows of it afterwards."""

import errno
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import DataError, transaction
from django.utils import timezone

from apps.errors import Invalid, NetraError
from apps.llm.services import catalogue_for
from apps.optimization import jobs, storage
from apps.optimization.bills import BillConversion, NoCharges, convert_bill
from apps.optimization.containers import MOST_RATIO, is_packed
from apps.optimization.conversion import Conversion, NoCalls, Order, convert
from apps.optimization.datasets import files_of, refuse_bill, refuse_unready
from apps.optimization.limits import MAX_SECONDS, MAX_STAGED, TookTooLong
from apps.optimization.models import Dataset
from apps.optimization.readers import Reject
from apps.optimization.watching import Progress
from apps.realtime.notifier import publish_to_user

log = structlog.get_logger(__name__)

TELL_EVERY = jobs.TELL_EVERY
SMALL_BYTES = 4 * 1024**2  # of an upload whose import should be done in a second or two
SMALL_SECONDS = 10.0  # after which an import is none of a small file, whatever the upload's size; others wait behind it


class Interrupted(NetraError):
    """The import died several times."""

    code = "import.interrupted"
    status = 500


class ContinuesNothing(Invalid):
    """A bill was uploaded as a later file of a dataset of calls."""

    code = "bill.continues_nothing"
    status = 422


class Unstorable(NetraError):
    """The database refuses what was found in the file."""

    code = "import.unstorable"
    status = 422


def is_small(dataset: Dataset) -> bool:
    """Whether its import need not wait behind long work: a small file that was not begun before.

    What took too long, or died, is long work from then on. Of a packed file the most that is in it counts: what it says
    itself may be untrue.
    """
    if dataset.attempt > 0 or dataset.file_bytes > SMALL_BYTES:
        return False
    try:
        return dataset.file_bytes * MOST_RATIO <= SMALL_BYTES or not is_packed(_upload(dataset))
    except OSError:
        return False  # its import will say what is wrong


def _upload(dataset: Dataset) -> Path:
    return storage.folder_of(dataset) / storage.UPLOAD


def run_import(
    dataset_id: UUID,
    when_ready: Callable[[Dataset], None] = lambda dataset: None,
    *,
    seconds: float = MAX_SECONDS,
) -> Dataset | None:
    """Import a queued dataset, if no other worker does; calling it twice does no harm.

    `when_ready` writes what has to be there as soon as the dataset is: both are seen together, or neither. Answers the
    dataset if it is ready now, else None.

    Raises:
        TookTooLong: `seconds`, fewer than an import may take, were not enough; the dataset is queued again.
    """
    dataset = claimed(dataset_id)
    return run_claimed(dataset, when_ready, seconds=seconds) if dataset else None


def run_claimed(
    dataset: Dataset, when_ready: Callable[[Dataset], None] = lambda dataset: None, *, seconds: float = MAX_SECONDS
) -> Dataset | None:
    """Import a dataset that this worker has claimed; otherwise as `run_import`."""
    try:
        with jobs.pulse(dataset):
            tell = jobs.reporting(dataset, lambda: publish(dataset), every=TELL_EVERY)
            conversion = _converted(dataset, tell, seconds)
    except Exception as error:
        _give_up(dataset, error, seconds)
    else:
        _keep(dataset, conversion, when_ready)
    return dataset if dataset.state == Dataset.State.READY else None


def claimed(dataset_id: UUID) -> Dataset | None:
    """The dataset, now being imported; None if it is not queued, or another file of the same dataset is before it.

    A file must know the calls of those before it, or what two of them hold would count twice. The sweep rings again.
    """
    with transaction.atomic():
        found = Dataset.objects.filter(pk=dataset_id).first()
        if found is None or (found.continues_id and _is_busy(found.continues_id)):
            return None
        return jobs.claim(Dataset, dataset_id)


def _is_busy(first_id: UUID) -> bool:
    """Whether a file of the dataset is under way; nobody else learns it until the transaction is over."""
    first = Dataset.objects.select_for_update(no_key=True).filter(pk=first_id).first()
    if first is None or first.state in (Dataset.State.QUEUED, Dataset.State.IMPORTING):
        return True
    return bool(first.later_files.filter(state=Dataset.State.IMPORTING).exists())


def _converted(dataset: Dataset, tell: Progress, seconds: float) -> Conversion | BillConversion:
    """The upload as a bill if it is one, else as calls.

    Raises:
        ContinuesNothing: it is a bill, uploaded as a later file of calls.
        DatasetFailed, NotCalls: it continues a dataset without calls.
    """
    if dataset.continues:
        _refuse_to_continue(dataset.continues)  # such a dataset may have no folder to lock
    with storage.being_read(dataset):  # earlier files, which tell what is known
        return _read(dataset, tell, seconds)


def _read(dataset: Dataset, tell: Progress, seconds: float) -> Conversion | BillConversion:
    order, place = _order(dataset, seconds), storage.folder_of(dataset)
    bill = convert_bill(order.source, place / storage.BILL, most=order.staged_bytes, seconds=seconds, progress=tell)
    if bill and dataset.continues_id:
        raise ContinuesNothing("The file is a bill, and a bill continues no calls. Upload it by itself.")
    return bill or convert(order, tell)


def _keep(dataset: Dataset, conversion: Conversion | BillConversion, when_ready: Callable[[Dataset], None]) -> None:
    """Settle an import that worked; one whose results cannot be stored failed, since they never can be."""
    try:
        _finish(dataset, conversion, when_ready)
    except (DataError, ValueError) as error:
        log.error("Import not stored", dataset=str(dataset.pk), exc_info=error)
        _fail(dataset, _unstorable())


def _unstorable() -> Unstorable:
    return Unstorable(
        "The file was read, but what it holds cannot be stored: a name or a number in it is none that a database "
        "takes. Look at the names of its columns and models, correct them and upload the file again."
    )


def _give_up(dataset: Dataset, error: Exception, seconds: float) -> None:
    """Settle a failed import; raises the error again if it is a bug, or if the import may take longer elsewhere."""
    if isinstance(error, jobs.Superseded) or not jobs.held(dataset).exists():
        # The files of a deleted dataset go away under its import, so any error may be how that looks from inside.
        log.info("Import given up", dataset=str(dataset.pk), attempt=dataset.attempt)
        storage.remove_orphan(dataset)
    elif isinstance(error, TookTooLong) and seconds < MAX_SECONDS:
        jobs.give_back(dataset)
        raise error
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
    interrupted = Interrupted("The import was interrupted three times. Upload the file again.")
    return jobs.requeue_silent(Dataset, now, lambda dataset: _fail(dataset, interrupted))


def frame(dataset: Dataset) -> dict[str, Any]:
    """The dataset as `datasets/{id}/` shows it; the body of a `dataset_progress` frame too."""
    return {
        "id": str(dataset.pk),
        "continues": str(dataset.continues_id) if dataset.continues_id else None,
        "kind": dataset.kind,
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
        "known_rows": dataset.known_rows,
        "rejects": dataset.rejects,
        "first_call_at": _iso(dataset.first_call_at),
        "last_call_at": _iso(dataset.last_call_at),
        "prices": dataset.prices,
        "keep_days": dataset.keep_days,
        "time_zone": dataset.time_zone,
        "currency": dataset.currency,
        "currency_rate": str(dataset.currency_rate),
        "error": {"code": dataset.error_code, "detail": dataset.error_detail} if dataset.error_code else None,
        "created_by": str(dataset.created_by),
        "created_at": _iso(dataset.created_at),
        "finished_at": _iso(dataset.finished_at),
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat().replace("+00:00", "Z") if moment else None


def _refuse_to_continue(first: Dataset) -> None:
    refuse_unready(first)
    refuse_bill(first)


def _earlier(dataset: Dataset) -> list[Dataset]:
    """The files that the dataset had before this one."""
    first = dataset.continues
    return [file for file in files_of(first) if file.pk != dataset.pk] if first else []


def _order(dataset: Dataset, seconds: float) -> Order:
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
        hash_key=bytes(dataset.hash_key),
        known=[storage.folder_of(file) / storage.CALLS for file in _earlier(dataset)],
        staged_bytes=max(MAX_STAGED, 4 * settings.MAX_UPLOAD_BYTES),
        seconds=seconds,
    )


def _finish(dataset: Dataset, conversion: Conversion | BillConversion, when_ready: Callable[[Dataset], None]) -> None:
    found = _found_calls(conversion) if isinstance(conversion, Conversion) else _found_bill(conversion)
    if _settle(dataset, when_ready, state=Dataset.State.READY, progress=100, **found):
        (storage.folder_of(dataset) / storage.UPLOAD).unlink(missing_ok=True)


def _found_bill(bill: BillConversion) -> dict[str, Any]:
    return {
        "kind": Dataset.Kind.BILL,
        "source": bill.source,
        "notes": list(bill.notes),
        "rows": bill.rows,
        "rejected_rows": bill.rejected,
        "rejects": _told(bill.rejects),
        "first_call_at": _midnight(bill.first_day),
        "last_call_at": _midnight(bill.last_day),
    }


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _found_calls(conversion: Conversion) -> dict[str, Any]:
    return {
        "source": conversion.source,
        "columns": conversion.columns,
        "conventions": [asdict(verdict) for verdict in conversion.verdicts],
        "notes": list(conversion.notes),
        "rows": conversion.rows,
        "rejected_rows": conversion.rejected,
        "known_rows": conversion.known,
        "rejects": _told(conversion.rejects),
        "first_call_at": conversion.first_call_at,
        "last_call_at": conversion.last_call_at,
        "prices": conversion.prices,
    }


def _fail(dataset: Dataset, error: NetraError) -> None:
    rejects, rejected = (error.rejects, error.rejected) if isinstance(error, NoCalls | NoCharges) else ((), 0)
    found: dict[str, Any] = {"error_code": error.code, "error_detail": error.detail}
    try:
        settled = _settle(dataset, state=Dataset.State.FAILED, **found, rejects=_told(rejects), rejected_rows=rejected)
    except (DataError, ValueError):
        if isinstance(error, Unstorable):
            raise
        _fail(dataset, _unstorable())
    else:
        if settled:
            storage.remove(storage.folder_of(dataset))


def _settle(dataset: Dataset, then: Callable[[Dataset], None] = lambda dataset: None, **found: Any) -> bool:
    """Write the end of an import and tell its owner, unless it is another's by now; files of a deleted one go."""
    with transaction.atomic():
        # The dataset before its files and analyses, as a deletion does; else the two could wait for each other.
        Dataset.objects.select_for_update(no_key=True).filter(pk=dataset.continues_id or dataset.pk).first()
        settled = jobs.settle(dataset, **found)
        if settled:
            then(dataset)
    if settled:
        publish(dataset)
    else:
        storage.remove_orphan(dataset)
    return settled


def publish(dataset: Dataset) -> None:
    """Tell who uploaded it how it stands."""
    publish_to_user(user_id=dataset.created_by, frame={"type": "dataset_progress", **frame(dataset)})


def _told(rejects: tuple[Reject, ...]) -> list[dict[str, Any]]:
    return [asdict(reject) for reject in rejects]
