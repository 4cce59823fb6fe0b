"""Keeps the processes of a house alive, and ends them in order."""

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from apps.errors import NetraError
from apps.operations.processes import ended, signal_group

FIRST_WAIT = 0.1  # seconds before the first restart; doubles with each further one
LONGEST_WAIT = 30.0  # seconds
STABLE_AFTER = 5.0  # seconds of life after which earlier deaths are forgotten
LOOK_EVERY = 0.1  # seconds
PROCESSES_END_WITHIN = 3.0  # seconds; whatever is cut off then is taken up again by the next start
SERVERS_END_WITHIN = 1.2  # seconds


@dataclass(kw_only=True)
class Child:
    """One process of the house, through all its restarts."""

    name: str
    spawn: Callable[[], "subprocess.Popen[bytes]"]
    stop_signal: signal.Signals = signal.SIGTERM
    is_server: bool = False  # servers outlive the processes that use them
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)
    deaths: int = field(default=0, init=False)  # since it was last stable
    started_at: float = field(default=0.0, init=False)  # monotonic seconds
    due_at: float | None = field(default=None, init=False)  # of the next start, None while it runs

    def start(self, now: float) -> None:
        self.process = self.spawn()
        self.started_at, self.due_at = now, None


class Supervisor:
    """Starts children, restarts those that die, and stops all of them. Use it from the main thread only."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.children: list[Child] = []
        self._say = say

    def start(self, child: Child) -> Child:
        """Start `child` and keep it alive from now on."""
        self.children.append(child)
        child.start(time.monotonic())
        return child

    def watch(self) -> None:
        """Keep the children alive until a signal ends this."""
        while True:
            self.look(time.monotonic())
            time.sleep(LOOK_EVERY)

    def look(self, now: float) -> None:
        """Note who died, and start who is due."""
        for child in self.children:
            if child.due_at is None and child.process is not None and child.process.poll() is not None:
                self._note_death(child, now)
            elif child.due_at is not None and child.due_at <= now:
                self._start_again(child, now)

    def stop(self) -> None:
        """End all children, last started first, within 5 seconds; a further Ctrl-C changes nothing about that."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        newest_first = self.children[::-1]
        _end([child for child in newest_first if not child.is_server], within=PROCESSES_END_WITHIN)
        _end([child for child in newest_first if child.is_server], within=SERVERS_END_WITHIN)

    def _note_death(self, child: Child, now: float) -> None:
        assert child.process is not None  # noqa: S101  # only a started child can die
        signal_group(child.process, signal.SIGKILL)  # what it left behind: the pool of a worker
        if now - child.started_at > STABLE_AFTER:
            child.deaths = 0
        self._postpone(child, now, how_it_ended(child.process.returncode))

    def _start_again(self, child: Child, now: float) -> None:
        try:
            child.start(now)
        except (OSError, NetraError) as error:  # a full disk, no memory: the same wait as after a death
            self._postpone(child, now, str(error))

    def _postpone(self, child: Child, now: float, reason: str) -> None:
        wait = wait_before_restart(child.deaths)
        child.deaths += 1
        child.due_at = now + wait
        self._say(f"The {child.name} ended ({reason}); it starts again in {wait:g} s.")


def wait_before_restart(deaths: int) -> float:
    """Seconds to wait after one more death when there were `deaths` before; doubles, then stays at the cap.

    >>> [wait_before_restart(n) for n in (0, 1, 2, 99)]
    [0.1, 0.2, 0.4, 30.0]
    """
    return float(min(FIRST_WAIT * 2 ** min(deaths, 16), LONGEST_WAIT))


def how_it_ended(code: int) -> str:
    """The way a process ended, in words.

    >>> how_it_ended(-9), how_it_ended(1)
    ('killed by SIGKILL', 'exit status 1')
    """
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def _end(children: Sequence[Child], *, within: float) -> None:
    processes = [(child, child.process) for child in children if child.process is not None]
    for child, process in processes:
        process.send_signal(child.stop_signal)
    deadline = time.monotonic() + within
    for _, process in processes:
        ended(process, within=max(0.0, deadline - time.monotonic()))
    for _, process in processes:
        signal_group(process, signal.SIGKILL)
        process.wait()
