"""What one import may use: time, scratch space and disk. A small file may hold a large one."""

import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock, Thread
from typing import BinaryIO
from uuid import UUID

import duckdb

from apps.errors import NetraError
from apps.optimization.readers import TooLargeInside, UnusableFile

MAX_SECONDS = 30 * 60.0  # of one import; others wait behind it
IN_REQUEST_SECONDS = 30.0  # of what is computed while somebody's request waits
MAX_STAGED = 4 * 1024**3  # bytes of text that the calls of one file may take
MAX_LINE = 17 * 1024**2  # bytes of one call as text
KEEP_FREE = 500 * 1024**2  # bytes of the disk that an import leaves to others
LOOK_EVERY = 64 * 1024**2  # bytes written between two looks at the disk
_AGAIN = 0.2  # seconds between two interruptions: one that comes between two statements is lost


class TookTooLong(UnusableFile):
    """The reading of a file was stopped because others wait."""

    code = "import.took_too_long"


class DiskFull(NetraError):
    """The import would leave too little of the disk to others."""

    code = "storage.full"
    status = 507
    retryable = True


class OverlongRow(Exception):
    """One call takes more text than one call can."""


class Deadline:
    """The moment at which the work is stopped."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._at = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until then."""
        return max(0.0, self._at - time.monotonic())

    def check(self) -> None:
        """Raises TookTooLong once the time is over."""
        if time.monotonic() > self._at:
            raise self._over()

    @contextmanager
    def stopping(self, connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Statements on `connection` end with TookTooLong at the deadline, with an error of ours if room runs out."""
        self.check()
        done = Event()
        thread = Thread(target=self._interrupt, args=(connection, done), daemon=True, name="import-deadline")
        thread.start()
        try:
            yield
        except duckdb.InterruptException:
            raise self._over() from None
        except duckdb.OutOfMemoryException:
            raise TooLargeInside("The calls need more memory than one import may use. Split the file.") from None
        except duckdb.IOException as error:
            if re.search("no space left", str(error), re.IGNORECASE):
                raise _disk_full() from None
            raise
        finally:
            done.set()
            thread.join()

    def _over(self) -> TookTooLong:
        return TookTooLong(f"It took longer than {spelled(self._seconds)}. Split the file and bring the parts.")

    def _interrupt(self, connection: duckdb.DuckDBPyConnection, done: Event) -> None:
        wait = max(0.0, self._at - time.monotonic())
        while not done.wait(wait):
            connection.interrupt()
            wait = _AGAIN


class Turns:
    """So many at a time, and so many of one person; in this process."""

    def __init__(self, *, at_once: int, of_one: int) -> None:
        self._at_once, self._of_one = at_once, of_one
        self._taken: Counter[UUID] = Counter()
        self._lock = Lock()

    @contextmanager
    def taken(self, user_id: UUID) -> Iterator[bool]:
        """Whether there was a turn for the person; it is over with the block."""
        with self._lock:
            free = self._taken.total() < self._at_once and self._taken[user_id] < self._of_one
            if free:
                self._taken[user_id] += 1
        try:
            yield free
        finally:
            if free:
                with self._lock:
                    self._taken[user_id] -= 1
                    self._taken += Counter()  # who has none is forgotten


def spelled(seconds: float) -> str:
    """A limit for reading.

    >>> spelled(1800), spelled(30)
    ('30 minutes', '30 seconds')
    """
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:g} seconds"


def require_room(place: Path) -> None:
    """Raises DiskFull if the disk of `place` has too little left to begin with."""
    if shutil.disk_usage(place).free < KEEP_FREE + LOOK_EVERY:
        raise _disk_full()


class BoundedFile:
    """Lines of text on disk, up to a number of bytes and never into the last of the disk."""

    def __init__(self, file: BinaryIO, place: Path, limit: int) -> None:
        self._file, self._place, self._limit = file, place, limit
        self._size = self._look_at = 0

    def write(self, line: str) -> int:
        """Raises OverlongRow, and nothing is written; TooLargeInside; DiskFull."""
        data = line.encode("utf-8", errors="backslashreplace")
        if len(data) > MAX_LINE:
            raise OverlongRow
        self._size += len(data)
        if self._size > self._limit:
            raise TooLargeInside(
                f"The calls in the file take more than {self._limit:,} bytes as text. Split the file, or import it "
                "without prompts."
            )
        if self._size > self._look_at:
            self._look_at = self._size + LOOK_EVERY
            require_room(self._place)
        return self._file.write(data)


def _disk_full() -> DiskFull:
    return DiskFull("The disk of this Netra is full. Free some space and upload the file again.")
