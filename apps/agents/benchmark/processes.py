"""The processes beside the house: the local model, the clients, the floors' workers, and one more agent worker."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from psycopg.conninfo import conninfo_to_dict

from apps.agents.benchmark.clients import Taken
from apps.errors import NetraError
from apps.operations import benchmarks
from apps.operations.processes import becomes_true, spawn
from apps.operations.startup import CHECKOUT

UP_WITHIN = 60.0  # seconds
AGENTS, WEB = "-Q agents", "netra.web_server"
_PLAIN = ("--loglevel", "ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat")
_LIBPQ = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}


class BrokenRound(NetraError):
    """Something did not go as it must; what was measured is worth nothing."""

    code = "benchmark.broken_round"


@contextmanager
def running(*words: str, environment: Mapping[str, str] | None = None) -> Iterator["subprocess.Popen[bytes]"]:
    """A Python process for the length of a block; its standard output can be read."""
    process = spawn(
        [sys.executable, *words],
        death_signal=signal.SIGKILL,
        output=subprocess.PIPE,
        errors=None,
        environment=environment,
        directory=CHECKOUT,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def local_model() -> Iterator[Mapping[str, str]]:
    """The model server, as the house's environment names it."""
    with running("-m", "apps.agents.benchmark.model_server") as server:
        port = int(server.stdout.readline()) if server.stdout else 0
        yield {
            "NETRA_LLM_BASE_URL": f"http://127.0.0.1:{port}/v1",
            "NETRA_LLM_MODEL": "benchmark",
            "NETRA_EXTENSIONS": "apps.agents.benchmark.workload",
            "NETRA_WORKFLOW": "benchmark_whole",
        }


def said_by(module: str, question: Mapping[str, Any], **environment: str) -> Any:
    """What a module of this package answers to a question.

    Raises:
        BrokenRound: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", f"apps.agents.benchmark.{module}"],
        cwd=CHECKOUT,
        env=dict(os.environ) | environment,
        input=json.dumps(question),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise BrokenRound(f"{module} failed: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout)


def clients(keys: list[str], *, count: int, runs: int, text: str = "What is the margin?") -> Taken:
    """Whole runs, by `count` clients at once, through REST and the event stream."""
    url = benchmarks.house()["url"].rstrip("/")
    return Taken(**said_by("clients", {"url": url, "keys": keys, "clients": count, "runs": runs, "text": text}))


def engine_clients(users: list[str], *, runs: int) -> Taken:
    """Runs that do nothing, by all `users` at once."""
    environment = {"NETRA_WORKFLOW": "benchmark_bare", "DJANGO_SETTINGS_MODULE": "netra.settings"}
    return Taken(**said_by("engine_clients", {"users": users, "runs": runs}, **environment))


def floor_clients(task: str, *, count: int, runs: int, direct: bool = False) -> Taken:
    """Runs of one of the floor's tasks, by `count` clients at once."""
    question = {"task": f"benchmark.{task}", "clients": count, "runs": runs, "direct": direct}
    return Taken(**said_by("floor_clients", question, **floor_environment()))


def floor_environment() -> dict[str, str]:
    """Where libpq and Celery find the house's stores."""
    parts = conninfo_to_dict(benchmarks.house()["database_url"])
    named = {_LIBPQ[name]: str(value) for name, value in parts.items() if name in _LIBPQ}
    return named | {"CELERY_BROKER_URL": settings.CELERY_BROKER_URL}


@contextmanager
def floor_worker(pool: str, size: int) -> Iterator[int]:
    """A Celery worker with the floor's tasks, warm; its process id."""
    words = ("-m", "celery", "--quiet", "-A", "apps.agents.benchmark.floor", "worker", *_PLAIN)
    environment = dict(os.environ) | floor_environment() | {"PYTHONWARNINGS": "ignore"}
    with running(*words, "-P", pool, "-c", str(size), "-n", "floor@%h", environment=environment) as worker:
        floor_clients("whole", count=8, runs=40)
        yield worker.pid


@contextmanager
def second_worker() -> Iterator["subprocess.Popen[bytes]"]:
    """One more agent worker, with the house's own command and environment."""
    pid = agent_worker()
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[1:-1]
    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
    environment = dict(variable.split("=", 1) for variable in variables if variable)
    words = [word.replace("agents@", "second@") if word.startswith("agents@") else word for word in words]
    with running(*words, environment=environment) as worker:
        yield worker


def agent_worker() -> int:
    """The house's own agent worker, once it is there.

    Raises:
        BrokenRound: it does not come.
    """
    if not becomes_true(lambda: bool(benchmarks.processes_of_house(AGENTS)), within=UP_WITHIN):
        raise BrokenRound("The house has no agent worker.")
    return benchmarks.processes_of_house(AGENTS)[0]
