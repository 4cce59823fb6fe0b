"""Spans that arrive while their system runs: kept in a spool at once, imported into one dataset about every minute.

A spool file holds the requests of one minute, a JSON line each, below `datasets/<organization>/live/`. A request is
answered when its line is on the disk. The sweep imports a file as a later file of the organization's live dataset;
a span that was sent twice is known there by its id.
"""

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import duckdb
import structlog
from django.conf import settings

from apps.accounts.models import Membership
from apps.accounts.tenancy import Principal
from apps.errors import NetraError
from apps.optimization import services, storage
from apps.optimization.compaction import compact
from apps.optimization.models import Dataset

NAME = "Live calls (OpenTelemetry)"
SPOOL_SECONDS = 60
SPOOL_BYTES = 8 * 1024**2  # above it, a file is imported before its minute is over
MOST_SPOOLED = 512 * 1024**2  # bytes that wait for their import; above it senders are told to wait
_FOLDER = "live"

log = structlog.get_logger(__name__)


class SpoolFull(NetraError):
    """So much waits for its import that nothing more is taken."""

    code = "traces.busy"
    status = 503
    retryable = True


def keep(*, organization_id: UUID, document: dict[str, Any], now: datetime) -> None:
    """Put one request on the disk; it is there when this returns.

    Raises:
        SpoolFull: too much waits, or the disk is full; nothing was kept.
    """
    folder = storage.folder_of_organization(organization_id) / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    line = json.dumps(document, separators=(",", ":")).encode() + b"\n"
    if sum(map(_size, folder.glob("*.jsonl"))) + len(line) > MOST_SPOOLED:
        raise SpoolFull("Too many spans wait for their import. Send them again later.")
    path = folder / f"{int(now.timestamp()) // SPOOL_SECONDS}.jsonl"
    with _locked(path, os.O_CREAT) as file:
        _append(file, line)
    _sync_folder(folder)


def import_spools(*, now: datetime) -> int:
    """Import the spool files whose minute is over, one per organization and call; how many. For the sweep."""
    folders = (Path(settings.MEDIA_ROOT) / "datasets").glob(f"*/{_FOLDER}")
    return sum(_import_next(folder, now) for folder in folders)


def _append(file: BinaryIO, line: bytes) -> None:
    """All of the line on the disk, or nothing of it."""
    size = file.seek(0, os.SEEK_END)
    try:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        os.ftruncate(file.fileno(), size)
        if error.errno == errno.ENOSPC:
            raise SpoolFull("The disk of this Netra is full. Send the spans again later.") from None
        raise


@contextmanager
def _locked(path: Path, flags: int = 0) -> Iterator[BinaryIO]:
    """The file at `path`, which nobody else writes or removes meanwhile."""
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | flags, 0o600), "r+b", buffering=0)
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # The sweep may have removed it while this waited for the lock.
            if _is_there(file, path):
                _mend(file)
                yield file
                return


def _is_there(file: BinaryIO, path: Path) -> bool:
    """Whether `path` still names the open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _mend(file: Any) -> None:
    """Cut off a line that a killed process began: nobody was told that it is kept."""
    size = file.seek(0, os.SEEK_END)
    while size and os.pread(file.fileno(), 1, size - 1) != b"\n":
        start = max(0, size - 65536)
        tail = os.pread(file.fileno(), size - start, start)
        size = start + tail.rfind(b"\n") + 1
    if size < file.seek(0, os.SEEK_END):
        os.ftruncate(file.fileno(), size)


def _sync_folder(folder: Path) -> None:
    """A new file is on the disk only when its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _import_next(folder: Path, now: datetime) -> int:
    principal = _owner(UUID(folder.parent.name))
    path = next((path for path in sorted(folder.glob("*.jsonl")) if _is_due(path, now)), None)
    if principal is None or path is None:
        return 0
    first = _live_dataset(principal)
    if first is not None and _is_busy(first):
        return 0  # a file must know what the one before it brought
    if first is not None:
        _put_together(first)
    try:
        with _locked(path):
            if path.stat().st_size:
                _hand_over(principal, path, first)
            path.unlink()
    except FileNotFoundError:
        return 0  # another sweep had it
    except NetraError as error:
        log.warning("Live calls wait", organization=str(principal.organization_id), reason=error.detail)
        return 0
    return 1


def _put_together(first: Dataset) -> None:
    """Many small files slow analyses down, which is no reason to keep new calls out."""
    try:
        compact(first)
    except (duckdb.Error, OSError, NetraError) as error:
        log.error("Files not put together", dataset=str(first.pk), reason=str(error), exc_info=error)


def _hand_over(principal: Principal, path: Path, first: Dataset | None) -> None:
    """Make the file the live dataset's; after a crash in between, the same bytes are found there."""
    services.create_dataset(
        principal=principal,
        upload=services.LocalFile(path),
        name=NAME,
        metadata_only=True,
        continues=first.pk if first else None,
        live=True,
    )


def _size(path: Path) -> int:
    """Bytes of a spool; none of one that a sweep has just taken."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _is_due(path: Path, now: datetime) -> bool:
    over = (int(path.stem) + 1) * SPOOL_SECONDS <= now.timestamp()
    return over or _size(path) >= SPOOL_BYTES


def _owner(organization: UUID) -> Principal | None:
    """Who imports for an organization; None where it has nobody."""
    owners = Membership.objects.filter(role=Membership.Role.OWNER, organization_id=organization)
    owner = owners.select_related("organization").order_by("id").first()
    if owner is None:
        return None
    return Principal(
        user_id=owner.user_id,
        organization_id=owner.organization_id,
        role=Membership.Role.OWNER,
        plan=str(owner.organization.plan_id),
    )


def _live_dataset(principal: Principal) -> Dataset | None:
    """The dataset that the spools continue; None where there is none, it was deleted, or it never came to be."""
    gone = [Dataset.State.FAILED, Dataset.State.CANCELLED]
    # Nothing but this module makes a dataset live.
    begun = Dataset.objects.for_organization(principal).filter(live=True, continues=None).exclude(state__in=gone)
    found: Dataset | None = begun.order_by("-id").first()
    return found


def _is_busy(first: Dataset) -> bool:
    unfinished = [Dataset.State.QUEUED, Dataset.State.IMPORTING]
    return first.state in unfinished or first.later_files.filter(state__in=unfinished).exists()
