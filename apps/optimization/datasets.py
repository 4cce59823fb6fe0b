"""A dataset as one thing: its files, what names its content, and its calls opened for reading."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings

from apps.errors import NetraError
from apps.llm.catalogue import Catalogue
from apps.llm.services import catalogue_for
from apps.optimization import storage
from apps.optimization.bills import KeptBill
from apps.optimization.calls import Calls, reading
from apps.optimization.limits import Deadline, TookTooLong, spelled
from apps.optimization.models import Dataset
from apps.optimization.readers import Reject, TooLargeInside


class DatasetNotReady(NetraError):
    """Its calls are still being imported."""

    code = "dataset.not_ready"
    status = 409
    retryable = True


class DatasetFailed(NetraError):
    """Its import failed or was cancelled, so it has no calls."""

    code = "dataset.failed"
    status = 409


class NotCalls(NetraError):
    """The dataset is a bill, which has no calls."""

    code = "dataset.is_a_bill"
    status = 409


class NotABill(NetraError):
    """The dataset has calls, and a bill was asked for."""

    code = "dataset.is_no_bill"
    status = 409


class TooMuchWork(NetraError):
    """The computation was stopped because others wait, or needs more memory than one may use."""

    code = "analysis.too_much_work"
    status = 422


@contextmanager
def bounded(calls: Calls, seconds: float) -> Iterator[None]:
    """What is computed on `calls` ends in time: one question must not have a process for good.

    Raises:
        TooMuchWork: it took longer than `seconds`, or needs too much memory.
    """
    try:
        with Deadline(seconds).stopping(calls.connection):
            yield
    except TookTooLong:
        raise TooMuchWork(f"It took longer than {spelled(seconds)}. Keep fewer days of calls, or split them.") from None
    except TooLargeInside:
        raise TooMuchWork(
            "The calls need more memory than one analysis may use. Keep fewer days, or split them."
        ) from None


def files_of(dataset: Dataset) -> list[Dataset]:
    """The rows of its imported files, the first one first. One query."""
    later = dataset.later_files.filter(state=Dataset.State.READY).order_by("created_at", "id")
    return [dataset, *later]


def content_hash(dataset: Dataset) -> str:
    """SHA-256 over what the dataset holds: the same files, read the same way, have the same hash. One query."""
    # A file is read in one way, and what is too old is removed from it: its hash and its number of calls say all.
    files = [
        f"{file.sha256} {file.metadata_only} {file.price_as} {file.mapping} {file.rows}" for file in files_of(dataset)
    ]
    return hashlib.sha256("\n".join(files).encode()).hexdigest()


@contextmanager
def open_dataset(dataset: Dataset, catalogue: Catalogue | None = None, *, time_zone: str = "UTC") -> Iterator[Calls]:
    """The calls of all files of a dataset, for analyses; blocking, so not for an event loop.

    Raises:
        DatasetNotReady, DatasetFailed, NotCalls: see there.
    """
    refuse_unready(dataset)
    refuse_bill(dataset)
    with storage.being_read(dataset):
        files = files_of(dataset)
        with reading(
            files=[storage.folder_of(file) / storage.CALLS for file in files],
            catalogue=catalogue or catalogue_for(organization_id=dataset.organization_id),
            memory_mib=settings.ANALYSIS_MEMORY_MIB,
            notes=tuple(dict.fromkeys(note for file in files for note in file.notes)),
            time_zone=time_zone,
        ) as calls:
            yield calls


def bill_of(dataset: Dataset) -> KeptBill:
    """The charges of a bill, and what its import said of it.

    Raises:
        DatasetNotReady, DatasetFailed, NotABill: see there.
    """
    refuse_unready(dataset)
    if dataset.kind != Dataset.Kind.BILL:
        raise NotABill(f"{dataset.name!r} has calls; a bill has charges by day: a cost or usage report, or FOCUS.")
    return KeptBill(
        charges=storage.folder_of(dataset) / storage.BILL,
        notes=tuple(dataset.notes),
        rejected=dataset.rejected_rows,
        rejects=tuple(Reject(**reject) for reject in dataset.rejects),
    )


def refuse_bill(dataset: Dataset) -> None:
    """Raises NotCalls if the dataset is a bill."""
    if dataset.kind == Dataset.Kind.BILL:
        raise NotCalls(f"{dataset.name!r} is a bill. Compare calls with it: its sums cannot be analysed as calls.")


def refuse_unready(dataset: Dataset) -> None:
    """Raises DatasetNotReady or DatasetFailed if the dataset has no calls yet, or never will."""
    if dataset.state in (Dataset.State.FAILED, Dataset.State.CANCELLED):
        raise DatasetFailed(
            f"The import of {dataset.name!r} {dataset.state}: {dataset.error_detail or 'it was stopped'}"
        )
    if dataset.state != Dataset.State.READY:
        raise DatasetNotReady(f"{dataset.name!r} is still being imported ({dataset.progress} %).", retry_after=2.0)
