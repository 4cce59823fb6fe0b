"""Child processes that cannot outlive the process that started them."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

POLL_EVERY = 0.02  # seconds between two looks at something that is about to happen
PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True, kw_only=True)
class Account:
    """The user a child runs as, when that is not the user who starts it."""

    uid: int
    gid: int


def spawn(
    command: Sequence[str | Path],
    *,
    death_signal: signal.Signals,
    output: IO[bytes] | int | None,
    errors: IO[bytes] | int | None = subprocess.STDOUT,
    typed: IO[bytes] | int = subprocess.DEVNULL,
    environment: Mapping[str, str] | None = None,
    account: Account | None = None,
    directory: Path | None = None,
    umask: int = 0o077,
) -> "subprocess.Popen[bytes]":
    """Start `command` in a session of its own; on Linux it gets `death_signal` when this process dies, however it dies.

    Call it from the main thread: the kernel sends the signal when the *thread* that started the child ends.
    """
    drop: dict[str, Any] = {}
    if account is not None:
        drop = {"user": account.uid, "group": account.gid, "extra_groups": []}
    return subprocess.Popen(
        [str(part) for part in command],
        stdin=typed,
        stdout=output,
        stderr=errors,
        env=None if environment is None else dict(environment),
        cwd=directory,
        umask=umask,
        start_new_session=True,
        preexec_fn=_die_with_parent(os.getpid(), death_signal),  # runs after setuid, which clears it
        **drop,
    )


def _die_with_parent(parent: int, death_signal: signal.Signals) -> Callable[[], None]:
    def arrange() -> None:
        if _libc is None:
            return
        _libc.prctl(PR_SET_PDEATHSIG, int(death_signal))
        if os.getppid() != parent:  # it died before the signal was arranged
            os._exit(1)

    return arrange


def signal_group(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Send `number` to the child's whole process group; nothing happens when it is gone."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):  # macOS answers EPERM for a group of zombies
        return


def ended(process: "subprocess.Popen[bytes]", *, within: float) -> bool:
    """Whether the child has ended, after waiting at most `within` seconds."""
    try:
        process.wait(timeout=within)
    except subprocess.TimeoutExpired:
        return False
    return True


def becomes_true(condition: Callable[[], bool], *, within: float) -> bool:
    """Whether `condition` holds, looking again and again for at most `within` seconds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_EVERY)
    return True


def is_alive(pid: int) -> bool:
    """Whether a process with this id exists, whoever owns it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
