"""The home of a house: one directory with its data and keys, and with what other commands need to find it."""

import contextlib
import errno
import fcntl
import json
import os
import pwd
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apps.errors import NetraError
from apps.operations.embedded import NoSpace

FORMAT = 1  # of the home; goes up when an older release could not use what this one writes
SPACE_NEEDED = 256 * 1024**2  # bytes, for a new database, its log and a copy of the binaries


class HomeClosed(NetraError):
    """The home cannot be written."""

    code = "home.closed"


class HomeOfAnother(NetraError):
    """The home belongs to another user."""

    code = "home.of_another_user"


class NewerRelease(NetraError):
    """A newer release has used this home."""

    code = "home.newer_release"


class AlreadyRunning(NetraError):
    """Another process keeps this house."""

    code = "house.running"


@contextlib.contextmanager
def claimed(home: Path) -> Iterator[None]:
    """Hold `home` for this process alone, for the length of a block.

    Raises:
        HomeClosed, HomeOfAnother, NewerRelease, AlreadyRunning, NoSpace: with the remedy.
    """
    with _explaining(home):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(home)
        # PostgreSQL's service user has to pass through where root keeps the house; every file inside stays closed.
        home.chmod(0o711 if os.geteuid() == 0 else 0o700)
        (home / "files").mkdir(mode=0o700, exist_ok=True)
        lock = open(os.open(home / "lock", os.O_WRONLY | os.O_CREAT, 0o600), "w")  # noqa: SIM115  # closed below
    with lock:
        _lock(lock.fileno(), home)
        with _explaining(home):
            _check_format(home)
            _check_space(home)
            keep_secret(home / "secret-key", secrets.token_urlsafe(48))
        try:
            yield
        finally:
            (home / "house.json").unlink(missing_ok=True)


def publish(home: Path, **facts: Any) -> None:
    """Write where this house is to be found: `url`, `pid`, and the URLs of the stores that it brings itself."""
    write_privately(home / "house.json", json.dumps(facts | {"pid": os.getpid()}))


def keep_secret(path: Path, text: str) -> str:
    """The text kept at `path`, which is `text` if there was none before."""
    if not path.exists():
        write_privately(path, text)
    return path.read_text()


def write_privately(path: Path, text: str) -> None:
    """Replace `path` in one step by a file that only its owner may read."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


@contextlib.contextmanager
def _explaining(home: Path) -> Iterator[None]:
    """Turn what the file system refuses into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(home) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST):
            raise HomeClosed(
                f"Netra cannot keep its data in {home} ({error.strerror}). Start it as a user who may write there, "
                "or set NETRA_HOME to another directory."
            ) from error
        raise


def no_space(home: Path) -> NoSpace:
    """The refusal of a full disk."""
    return NoSpace(
        f"The disk that holds {home} is full. Free some space, or set NETRA_HOME to a place on another disk."
    )


def _check_owner(home: Path) -> None:
    owner = home.stat().st_uid
    if owner != os.geteuid():
        raise HomeOfAnother(
            f"{home} belongs to {_user_name(owner)}, and this is {_user_name(os.geteuid())}. "
            f"Start Netra as {_user_name(owner)}, or set NETRA_HOME to a directory of your own."
        )


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _lock(descriptor: int, home: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise AlreadyRunning(_where_it_runs(home)) from None


def _where_it_runs(home: Path) -> str:
    try:
        house = json.loads((home / "house.json").read_text())
    except FileNotFoundError:
        return f"Another start is just opening the house in {home}. Wait for it, or set NETRA_HOME for a second house."
    return (
        f"Netra is running already, at {house['url']} (process {house['pid']}). "
        "Use that one, stop it with Ctrl-C, or set NETRA_HOME and another port for a second house."
    )


def _check_format(home: Path) -> None:
    found = keep_secret(home / "format", str(FORMAT)).strip()
    if not found.isdigit() or int(found) > FORMAT:
        raise NewerRelease(
            f"{home} was written by a newer Netra (format {found!r}; this release knows {FORMAT}). "
            "Start that release, or set NETRA_HOME to a new directory."
        )


def _check_space(home: Path) -> None:
    free = shutil.disk_usage(home).free
    if free < SPACE_NEEDED:
        raise NoSpace(
            f"Only {free // 1024**2} MiB are free on the disk that holds {home}, and Netra needs "
            f"{SPACE_NEEDED // 1024**2}. Free some space, or set NETRA_HOME to a place on another disk."
        )
