"""Where the files of a dataset live: `datasets/<organization>/<dataset>/` below the media root, and only there."""

import errno
import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models.signals import post_delete
from django.dispatch import receiver

from apps.errors import NetraError
from apps.optimization.conversion import SCRATCH
from apps.optimization.models import Dataset

UPLOAD, CALLS = "upload", "calls.parquet"


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
