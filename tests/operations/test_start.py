"""`manage.py start` as somebody uses it: real processes, real signals."""

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from apps.operations.embedded import OUTSIDE
from tests.operations.houses import ROOT, environment, eventually, open_house, processes, refused, short_directory

pytestmark = [pytest.mark.processes, pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def directory():
    with short_directory() as path:
        yield path


@pytest.mark.long
def test_a_house_opens_heals_itself_and_closes(directory):
    with open_house(directory / "home") as house:
        assert house.ready == {
            "ready": True,
            "url": house.url,
            "email": "owner@localhost",
            "password": house.ready["password"],
        }
        assert len(house.ready["password"]) >= 16
        assert house.answers("/livez")
        assert house.answers("/readyz")

        second = refused(house.home)
        assert f"running already, at {house.url} (process {house.process.pid})" in second

        doctor = subprocess.run(
            [sys.executable, "manage.py", "doctor", "--json"],
            cwd=ROOT,
            env=environment(house.home),
            capture_output=True,
            check=False,
        )
        assert doctor.returncode in (0, 1)
        found = {one["name"]: one["ok"] for one in json.loads(doctor.stdout)["dependencies"]}
        assert found.items() >= {"postgresql": True, "migrations": True, "redis": True}.items()

        for word in ("netra.web_server", "postgres\0-D"):
            killed = house.pid_of(word)
            os.kill(killed, signal.SIGKILL)
            assert eventually(lambda killed=killed: killed not in house.pids()), word
            assert eventually(house.answers), word
            assert house.pid_of(word) != killed

        assert len(house.pids()) >= 6
        house.stop(signal.SIGTERM)
        assert house.process.returncode == 0
        assert house.pids() == {}
        assert not (house.home / "house.json").exists()

    said = "".join(house.errors)
    assert "The web process ended (killed by SIGKILL); it starts again in 0.1 s." in said
    assert "The PostgreSQL ended (killed by SIGKILL); it starts again in 0.1 s." in said
    assert "Nothing leaves this machine" in said
    assert "Traceback" not in said.split("ended (killed")[0]


@pytest.mark.long
def test_nothing_survives_the_death_of_the_parent_and_the_next_start_works(directory):
    home = directory / "home"
    with open_house(home) as house:
        before = house.ready
        house.stop(signal.SIGKILL)

        assert eventually(lambda: house.pids() == {}, within=5)
        assert (home / "house.json").exists()  # stale, as is what PostgreSQL and Redis left

    with open_house(home) as house:
        assert house.answers()
        assert house.ready["password"] == before["password"]
        house.stop(signal.SIGINT)


@as_root
@pytest.mark.long
def test_root_keeps_its_files_closed_and_runs_postgresql_as_the_service_user(closed):
    home = closed / "home"

    with open_house(home) as house:
        assert house.answers()
        assert Path(f"/proc/{_postmaster(home)}").stat().st_uid != 0

    assert (home / "postgres").readlink().is_relative_to(OUTSIDE)
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "secret-key").stat().st_mode) == 0o600
    assert stat.S_IMODE((home / "first-sign-in").stat().st_mode) == 0o600
    assert stat.S_IMODE((home / "files").stat().st_mode) == 0o700


@pytest.fixture
def closed(directory):
    """A directory that only its owner may pass; what is put outside because of it goes with it."""
    path = directory / "closed"
    path.mkdir(mode=0o700)
    yield path
    shutil.rmtree((path / "home" / "postgres").resolve(), ignore_errors=True)


def _postmaster(home: Path) -> int:
    return int((home / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0])


@as_root
def test_an_ordinary_user_can_keep_a_house(directory):
    python = _python_for_everybody()
    home = directory / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", python, "manage.py"]
    libraries = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if "site-packages" in path), "HOME": str(home)}

    with open_house(home, command=drop, **libraries) as house:
        assert house.answers()
        own = [pid for pid, _ in processes() if pid in house.pids()]
        assert {Path(f"/proc/{pid}").stat().st_uid for pid in own} == {65534}
        house.stop()


def _python_for_everybody() -> str:
    """An interpreter of this version that user nobody can run, with the code and the libraries within reach."""
    words = ["-c", "import django, redis, sys; print(sys.version_info[:2])"]
    libraries = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if "site-packages" in path)}
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        with contextlib.suppress(OSError):
            done = subprocess.run(
                [python, *words], user=65534, cwd=ROOT, env=libraries, capture_output=True, text=True, check=False
            )
            if done.stdout.strip() == str(sys.version_info[:2]):
                return python
    pytest.skip("user nobody can reach no Python of this version")


@as_root
def test_a_full_disk_is_a_sentence_at_the_start_and_later(directory):
    disk = directory / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=755", "tmpfs", disk], check=False).returncode != 0:
        pytest.skip("may not mount a small disk")
    try:
        assert "MiB are free on the disk" in refused(disk / "home")

        # As if the space had gone between the look and the writing.
        shrunk = [sys.executable, "-c", _START_WITHOUT_A_LOOK_AT_THE_DISK]
        done = subprocess.run(shrunk, cwd=ROOT, env=environment(disk / "home"), capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.strip().startswith("The disk is full: PostgreSQL (initdb) could not write")
    finally:
        subprocess.run(["umount", disk], check=True)


_START_WITHOUT_A_LOOK_AT_THE_DISK = """
from django.core.management import execute_from_command_line
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "netra.settings"
import apps.operations.house
apps.operations.house.SPACE_NEEDED = 0
execute_from_command_line(["manage.py", "start", "--port", "0"])
"""


def test_refusals_name_the_remedy(directory):
    home = directory / "home"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        assert f"Port {port} on 127.0.0.1 is taken" in refused(home, "--port", str(port))

    assert "'abc' is no port. Give a whole number" in refused(home, "--port", "abc")
    assert "cannot listen on 192.0.2.1" in refused(home, "--host", "192.0.2.1", "--port", "8000")
    assert "DATABASE_URL" in refused(home, DATABASE_URL="postgresql://netra@127.0.0.1:1/netra")
    assert "REDIS_URL" in refused(home, REDIS_URL="redis://127.0.0.1:1/0")
    assert eventually(lambda: not [pid for pid, words in processes() if str(directory) in words], within=5)
