"""Children that die, children that will not die, and what they leave behind."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from apps.errors import NetraError
from apps.operations import supervisor as module
from apps.operations.processes import is_alive, spawn
from apps.operations.supervisor import Child, Supervisor, wait_before_restart
from tests.operations.houses import eventually

FOREVER = "import time; time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
WITH_CHILD = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
child.wait()
"""


def python(code: str, output: int = subprocess.DEVNULL):
    return lambda: spawn([sys.executable, "-c", code], death_signal=signal.SIGKILL, output=output)


@pytest.fixture
def said():
    return []


@pytest.fixture
def supervisor(said):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    supervisor = Supervisor(said.append)
    yield supervisor
    supervisor.stop()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_child_that_dies_is_started_again_after_a_wait_that_grows(supervisor, said):
    child = supervisor.start(Child(name="worker", spawn=python("raise SystemExit(3)")))
    now = time.monotonic()

    for expected in (0.1, 0.2, 0.4):
        child.process.wait()
        supervisor.look(now)
        assert child.due_at == now + expected
        supervisor.look(now + expected - 0.01)
        assert child.due_at is not None
        now += expected
        supervisor.look(now)
        assert child.due_at is None

    assert said[0] == "The worker ended (exit status 3); it starts again in 0.1 s."


def test_a_stable_life_forgets_earlier_deaths(supervisor):
    child = supervisor.start(Child(name="worker", spawn=python("pass")))
    child.deaths = 5
    child.process.wait()

    supervisor.look(child.started_at + module.STABLE_AFTER + 1)

    assert child.deaths == 1


def test_a_start_that_fails_waits_like_a_death(supervisor, said):
    child = supervisor.start(Child(name="Redis", spawn=python("pass")))
    child.process.wait()
    child.spawn = lambda: (_ for _ in ()).throw(NetraError("the disk is full"))
    now = time.monotonic()
    supervisor.look(now)

    supervisor.look(now + 1)

    assert said[-1] == "The Redis ended (the disk is full); it starts again in 0.2 s."


def test_what_a_dead_child_left_behind_is_ended(supervisor):
    child = supervisor.start(Child(name="worker", spawn=python(WITH_CHILD, subprocess.PIPE)))
    with child.process.stdout as lines:
        grandchild = int(lines.readline())
    child.process.kill()
    child.process.wait()
    assert is_alive(grandchild)

    supervisor.look(time.monotonic())

    assert eventually(lambda: _ended(grandchild))


def _ended(pid: int) -> bool:
    """Gone, or a zombie that nobody has collected yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_child_that_ignores_the_signal_is_killed_in_time(supervisor, monkeypatch):
    monkeypatch.setattr(module, "PROCESSES_END_WITHIN", 0.3)
    deaf = supervisor.start(Child(name="worker", spawn=python(DEAF, subprocess.PIPE)))
    with deaf.process.stdout as lines:
        lines.readline()
    server = supervisor.start(Child(name="Redis", spawn=python(FOREVER), is_server=True))
    started = time.monotonic()

    supervisor.stop()

    assert time.monotonic() - started < 3
    assert deaf.process.returncode == -signal.SIGKILL
    assert server.process.returncode == -signal.SIGTERM


def test_the_wait_stays_at_its_cap():
    assert wait_before_restart(10_000) == module.LONGEST_WAIT
