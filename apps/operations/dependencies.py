"""The outside services that Netra needs: one list drives start-up, `/health`, `/readyz` and `manage.py doctor`."""

import functools
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooSlow
from dataclasses import asdict, dataclass
from typing import Any

import psycopg
import redis
from celery import current_app
from django.conf import settings
from django.db import connection
from django.db.migrations.loader import MigrationLoader

from apps.errors import NetraError

PROBE_WITHIN = 2.0  # seconds
WORKERS = {"agents", "tools", "imports"}  # the names before the @ of the worker nodes


class Unreachable(NetraError):
    """A service that Netra needs does not answer."""

    code = "service.unreachable"
    status = 503
    retryable = True


class Unmet(NetraError):
    """The service answers, and is not as Netra needs it."""

    code = "service.unmet"
    status = 503


@dataclass(frozen=True, kw_only=True)
class Dependency:
    """One service. `probe` returns a short description of what it found, or raises; `needs` names what comes first."""

    name: str
    probe: Callable[[], str]
    remedy: str
    needs: str | None = None
    required: bool = True  # False: requests are taken without it, and wait


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a probe found; `remedy` is None where nothing is wrong."""

    name: str
    ok: bool
    required: bool
    needs: str | None
    detail: str
    seconds: float
    remedy: str | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def _probe_postgresql() -> str:
    # A connection of its own: the pool would wait ten seconds for a server that is gone.
    with psycopg.connect(**_connection_parameters()) as probe:
        version = probe.info.server_version
    if version < 160000:
        raise Unmet(f"PostgreSQL {version // 10000} is too old")
    return f"PostgreSQL {version // 10000}.{version % 10000}"


def _connection_parameters() -> dict[str, Any]:
    parameters = connection.get_connection_params()
    timeout = f"-c statement_timeout={int(PROBE_WITHIN * 1000)}"
    return parameters | {"connect_timeout": int(PROBE_WITHIN), "options": timeout, "autocommit": True}


@functools.cache
def migrations_on_disk() -> frozenset[tuple[str, str]]:
    """App label and name of every migration of this release."""
    return frozenset(MigrationLoader(None, ignore_no_migrations=True).disk_migrations)


def _probe_migrations() -> str:
    on_disk = migrations_on_disk()
    with psycopg.connect(**_connection_parameters()) as probe:
        rows = probe.execute("SELECT app, name FROM django_migrations").fetchall()
    missing = on_disk - {(str(app), str(name)) for app, name in rows}
    if missing:
        raise Unmet(
            f"{len(missing)} of {len(on_disk)} migrations are not applied, the first is {'.'.join(min(missing))}"
        )
    return f"{len(on_disk)} applied"


def _probe_redis() -> str:
    client = redis.from_url(settings.REDIS_URL, socket_timeout=PROBE_WITHIN, socket_connect_timeout=PROBE_WITHIN)
    with client:
        facts = client.info()
    if facts.get("maxmemory_policy", "noeviction") != "noeviction":
        raise Unmet(f"Redis drops keys when its memory is full (maxmemory-policy {facts['maxmemory_policy']})")
    return f"Redis {facts['redis_version']}"


def _probe_workers() -> str:
    answers = current_app.control.ping(timeout=PROBE_WITHIN / 2, limit=len(WORKERS)) or []
    found = {name.split("@")[0] for answer in answers for name in answer}
    if missing := WORKERS - found:
        raise Unmet(f"no answer from the workers for: {', '.join(sorted(missing))}")
    return f"{len(answers)} answer"


DEPENDENCIES = (
    Dependency(
        name="postgresql",
        probe=_probe_postgresql,
        remedy="Start PostgreSQL 16 or later and check DATABASE_URL; without it, `make run` brings its own.",
    ),
    Dependency(
        name="migrations",
        probe=_probe_migrations,
        remedy="Apply them with `manage.py migrate`; `make run` does so by itself.",
        needs="postgresql",
    ),
    Dependency(
        name="redis",
        probe=_probe_redis,
        remedy="Start Redis 6.2 or later with maxmemory-policy noeviction and check REDIS_URL; "
        "without it, `make run` brings its own.",
    ),
    Dependency(
        name="workers",
        probe=_probe_workers,
        remedy="Start the agent worker, the tool worker and the import worker (docs/operations.md names the commands); "
        "`make run` starts them by itself.",
        needs="redis",
        required=False,
    ),
)


def named(*names: str) -> tuple[Dependency, ...]:
    """The dependencies with these names, in the order of the list."""
    return tuple(dependency for dependency in DEPENDENCIES if dependency.name in names)


def examine(dependencies: Iterable[Dependency] = DEPENDENCIES) -> list[Finding]:
    """Probe each for at most PROBE_WITHIN, those that need nothing first; nothing is raised, whatever is found."""
    dependencies = tuple(dependencies)
    findings = _probe_all([dependency for dependency in dependencies if dependency.needs is None])
    broken = {finding.name for finding in findings if not finding.ok}
    second = [dependency for dependency in dependencies if dependency.needs is not None]
    findings += _probe_all([dependency for dependency in second if dependency.needs not in broken])
    findings += [_finding(d, False, f"needs {d.needs}", 0.0) for d in second if d.needs in broken]
    order = [dependency.name for dependency in dependencies]
    return sorted(findings, key=lambda finding: order.index(finding.name))


def _probe_all(dependencies: list[Dependency]) -> list[Finding]:
    deadline = time.monotonic() + PROBE_WITHIN
    probes = [(dependency, _in_background(dependency)) for dependency in dependencies]
    return [_await(dependency, future, deadline) for dependency, future in probes]


def _in_background(dependency: Dependency) -> "Future[tuple[bool, str, float]]":
    """Probe on a thread that nothing waits for, not even the end of the process: a probe may hang."""
    future: Future[tuple[bool, str, float]] = Future()
    threading.Thread(target=lambda: future.set_result(_probe(dependency)), daemon=True).start()
    return future


def _probe(dependency: Dependency) -> tuple[bool, str, float]:
    started = time.monotonic()
    try:
        detail, ok = dependency.probe(), True
    except Exception as error:  # an edge: whatever a probe meets is its finding
        detail, ok = _first_line(error), False
    return ok, detail, round(time.monotonic() - started, 3)


def _await(dependency: Dependency, future: "Future[tuple[bool, str, float]]", deadline: float) -> Finding:
    try:
        ok, detail, seconds = future.result(timeout=max(0.0, deadline - time.monotonic()))
    except TooSlow:
        ok, detail, seconds = False, f"no answer within {PROBE_WITHIN:g} s", PROBE_WITHIN
    return _finding(dependency, ok, detail, seconds)


def _finding(dependency: Dependency, ok: bool, detail: str, seconds: float) -> Finding:
    return Finding(
        name=dependency.name,
        ok=ok,
        required=dependency.required,
        needs=dependency.needs,
        detail=detail,
        seconds=seconds,
        remedy=None if ok else dependency.remedy,
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def require(*names: str) -> None:
    """Return when these dependencies are met.

    Raises:
        Unreachable: for the first that is not, with its remedy.
    """
    for finding in examine(named(*names)):
        if not finding.ok:
            raise Unreachable(f"{finding.name} is not usable: {finding.detail}. {finding.remedy}")


def is_ready(findings: Iterable[Finding]) -> bool:
    """Whether everything required is met."""
    return all(finding.ok for finding in findings if finding.required)
