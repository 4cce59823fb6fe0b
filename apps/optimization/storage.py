"""Where the files of a dataset live: `datasets/<organization>/<dataset>/` below the media root, and only there."""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models.signals import post_delete
from django.dispatch import receiver

from apps.accounts.models import Organization
from apps.errors import NetraError
from apps.optimization.conversion import SCRATCH
from apps.optimization.models import Dataset

UPLOAD, CALLS, BILL = "upload", "calls.parquet", "bill.parquet"
ABANDONED = timedelta(hours=1)  # after that, a folder without a row belongs to no upload that is still being kept
LOOKED_AT = 50  # folders in one call of `remove_abandoned`


class TooLarge(NetraError):
    """The upload is larger than this Netra accepts."""

    code = "upload.too_large"
    status = 413


class NoRoom(NetraError):
    """The disk is full."""

    code = "storage.full"
    status = 507
    retryable = True


def folder(*, organization_id: UUID, dataset_id: UUID) -> Path:
    return folder_of_organization(organization_id) / str(dataset_id)


def folder_of_organization(organization_id: UUID) -> Path:
    return Path(settings.MEDIA_ROOT) / "datasets" / str(organization_id)


def folder_of(dataset: Dataset) -> Path:
    return folder(organization_id=dataset.organization_id, dataset_id=dataset.pk)


def keep_upload(into: Path, chunks: Iterable[bytes]) -> tuple[int, str]:
    """Write an upload to disk as it comes; its size in bytes and its SHA-256.

    Raises:
        TooLarge: it exceeds the limit; nothing is left behind.
        NoRoom: the disk is full; nothing is left behind.
    """
    into.mkdir(parents=True, exist_ok=True)
    try:
        return _write(into / UPLOAD, chunks)
    except BaseException as error:
        remove(into)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise NoRoom("The disk of this Netra is full; nothing was kept. Free some space and try again.") from error
        raise


def refuse_beyond_limit(size: int) -> None:
    """Raises TooLarge if `size` bytes are more than an upload may have."""
    if size > settings.MAX_UPLOAD_BYTES:
        limit = settings.MAX_UPLOAD_BYTES
        raise TooLarge(f"The file has {size:,} bytes; at most {limit:,} are accepted (NETRA_MAX_UPLOAD_BYTES).")


def remove(place: Path) -> None:
    """Remove a dataset's folder; nothing happens if there is none."""
    shutil.rmtree(place, ignore_errors=True)


@receiver(post_delete, sender=Dataset)
def _remove_with_the_row(instance: Dataset, **_: Any) -> None:
    """However a dataset's row goes, by its owner, the admin or with its organization, its files go with it."""
    place = folder_of(instance)
    transaction.on_commit(lambda: remove(place))


def remove_orphan(dataset: Dataset) -> None:
    """Remove the files of a dataset whose row is gone; those of a living one stay."""
    if not Dataset.objects.filter(pk=dataset.pk).exists():
        remove(folder_of(dataset))


_round: Iterator[Path] = iter(())  # where `remove_abandoned` goes on


def remove_abandoned(now: datetime) -> int:
    """Remove folders that a process left when it died between files and row; how many.

    One call looks at a few folders and the next goes on from there. An organization that the database does not know is
    left alone: with a wrong DATABASE_URL, everybody's files would look abandoned.
    """
    global _round
    places = list(islice(_round, LOOKED_AT))
    if not places:
        _round = (Path(settings.MEDIA_ROOT) / "datasets").glob("*/*/")
        places = list(islice(_round, LOOKED_AT))
    old = {ids: place for place in places if (ids := _ids(place)) and _is_old(place, now)}
    ours = set(Organization.objects.filter(pk__in={ids[0] for ids in old}).values_list("pk", flat=True))
    kept = set(Dataset.objects.filter(pk__in=[ids[1] for ids in old]).values_list("pk", flat=True))
    abandoned = [place for (owner, dataset), place in old.items() if owner in ours and dataset not in kept]
    for place in abandoned:
        remove(place)
    return len(abandoned)


def _ids(place: Path) -> tuple[UUID, UUID] | None:
    """The organization and the dataset that a folder is named after; None for what is not a dataset's folder."""
    try:
        return UUID(place.parent.name), UUID(place.name)
    except ValueError:
        return None


def _is_old(place: Path, now: datetime) -> bool:
    try:
        changed = max(path.stat().st_mtime for path in (place, *place.iterdir()))
    except OSError:
        return False  # it went away, or is no folder
    return changed < (now - ABANDONED).timestamp()


@contextmanager
def being_read(dataset: Dataset) -> Iterator[None]:
    """Hold all files of a dataset as they are; waits while they are rewritten."""
    with _lock(dataset.continues or dataset, fcntl.LOCK_SH):
        yield


@contextmanager
def rewriting(first: Dataset) -> Iterator[bool]:
    """Whether nobody reads the files of a dataset, whose first one is `first`; then nobody begins to, until this
    ends."""
    try:
        with _lock(first, fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield True
    except BlockingIOError:
        yield False


@contextmanager
def _lock(first: Dataset, how: int) -> Iterator[None]:
    """A lock of the operating system on the folder, so that it goes with the process that holds it."""
    handle = os.open(folder_of(first), os.O_RDONLY)
    try:
        fcntl.flock(handle, how)
        yield
    finally:
        os.close(handle)


def clear_scratch(place: Path) -> None:
    """Remove what imports that were killed left behind in a dataset's folder: copies of calls, prompts among them."""
    for scratch in place.glob(f"{SCRATCH}*"):
        shutil.rmtree(scratch, ignore_errors=True)


def _write(path: Path, chunks: Iterable[bytes]) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    with path.open("wb") as file:
        for chunk in chunks:
            size += len(chunk)
            refuse_beyond_limit(size)
            digest.update(chunk)
            file.write(chunk)
    return size, digest.hexdigest()
