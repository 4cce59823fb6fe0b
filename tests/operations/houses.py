"""Houses for tests: real ones, in directories of their own, watched from outside."""

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UP_WITHIN = 40.0  # seconds, on a machine that does other things, too
CONFIGURED = ("DATABASE_URL", "REDIS_URL", "PYTHONDONTWRITEBYTECODE", "DJANGO_SETTINGS_MODULE")


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of somebody who has configured nothing but the home."""
    inherited = {name: value for name, value in os.environ.items() if name not in CONFIGURED}
    return inherited | {"NETRA_HOME": str(home), "NETRA_SAMPLE_DATA": "false"} | more


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """A directory that everybody may pass through and whose path is short; pytest's own are neither."""
    path = Path(tempfile.mkdtemp(prefix="netra-house-"))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@dataclass
class House:
    """A running `manage.py start --json`."""

    process: "subprocess.Popen[str]"
    home: Path
    ready: dict = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.ready["url"]

    def answers(self, path: str = "/readyz") -> bool:
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as answer:
                return answer.status == 200
        except (OSError, urllib.error.HTTPError):
            return False

    def pids(self) -> dict[int, str]:
        """Processes of this house, the parent too: those with its home in their environment or in their command."""
        return {pid: words for pid, words in processes() if str(self.home) in words}

    def pid_of(self, word: str) -> int:
        own = {pid: words for pid, words in self.pids().items() if word in words.split("\0\0")[0]}
        return min(own)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Signal the parent, and wait until it has ended."""
        self.process.send_signal(number)
        self.process.wait(timeout=UP_WITHIN)


def processes() -> Iterator[tuple[int, str]]:
    """Id, and command line with environment, of every process that may be looked at."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes() + b"\0\0" + (entry / "environ").read_bytes()
                yield int(entry.name), words.decode(errors="replace")


@contextlib.contextmanager
def open_house(home: Path, *, command: list[str] | None = None, **more: str) -> Iterator[House]:
    """A house that is up. It is ended at the end of the block, by force if it has to be."""
    words = command or [sys.executable, "manage.py"]
    process = subprocess.Popen(
        [*words, "start", "--port", "0", "--json"],
        cwd=ROOT,
        env=environment(home, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    house = House(process=process, home=home)
    lines: queue.Queue[str] = queue.Queue()
    threads = [
        threading.Thread(target=lambda: lines.put(process.stdout.readline())),
        threading.Thread(target=lambda: house.errors.extend(process.stderr)),
    ]
    for thread in threads:
        thread.start()
    try:
        first = lines.get(timeout=UP_WITHIN)
        assert first, "".join(house.errors)
        house.ready = json.loads(first)
        yield house
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for thread in threads:
            thread.join(timeout=10)
        process.stdout.close()
        process.stderr.close()


def refused(home: Path, *words: str, **more: str) -> str:
    """What a start says that is refused with exit code 2, in one line and without a stack trace."""
    done = subprocess.run(
        [sys.executable, "manage.py", "start", *(words or ("--port", "0"))],
        cwd=ROOT,
        env=environment(home, **more),
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = done.stderr.strip()
    assert done.returncode == 2, said + done.stdout
    assert len(said.splitlines()) == 1, said
    return said


def eventually(condition: Callable[[], object], within: float = UP_WITHIN) -> bool:
    """Whether `condition` becomes true in time."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
