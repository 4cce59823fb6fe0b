"""The scene of a fault: a house of real processes, a tool server it knows nothing of, and one more agent worker."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import redis
from celery import Celery
from psycopg.rows import dict_row

from apps.operations.processes import spawn
from tests.faults.script import WORKFLOW
from tests.houses import PASSWORD, ROOT, House, Person, becomes
from tests.operations.houses import processes

AGENTS, TOOLS, WEB, REDIS, POSTGRES = "-Q agents", "-Q tools", "netra.web_server", "redis-server", "postgres -D"
UP_WITHIN = 40.0  # seconds, for a worker after several deaths


LIVING = "select pid from execution_workerprocess where beat_at > clock_timestamp() - interval '2 seconds'"

_TAKE_AWAY = """
select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'client backend' and pid <> all(%s)
    and query not like '%%execution_workerprocess%%' limit 1
"""


class ToolServer:
    """The tool server's process, and its record."""

    def __init__(self, folder: Path) -> None:
        self._record = folder / "effects.jsonl"
        self._process = spawn(
            [sys.executable, "-m", "tests.faults.tool_server", self._record],
            death_signal=signal.SIGKILL,
            output=subprocess.PIPE,
            errors=None,
            directory=ROOT,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def calls(self) -> list[dict[str, Any]]:
        """Every call so far, in order."""
        lines = self._record.read_text().splitlines(keepends=True) if self._record.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def fare(self, mode: str, seconds: float = 0.0) -> None:
        """How flaky calls fare from now on: `ok`, `error` or `slow`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("PUT", "/mode", json.dumps({"mode": mode, "seconds": seconds}))
        assert connection.getresponse().status == 200
        connection.close()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class Points:
    """The debug points of the house."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        folder.chmod(0o755)

    @contextlib.contextmanager
    def held(self, name: str) -> Iterator[Callable[[], int | None]]:
        """Hold whoever comes to a point; the function that is yielded answers the process that stands there."""
        gate, mark = self.folder / name, self.folder / f"{name}.reached"
        gate.touch()
        try:
            yield lambda: int(mark.read_text() or 0) if mark.exists() else None
        finally:
            gate.unlink()
            mark.unlink(missing_ok=True)


class Scene:
    """Everything that stays while cases come and go."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tools = ToolServer(folder)
        self.points = Points(folder / "points")
        try:
            self.house = House(
                folder,
                NETRA_SAMPLE_DATA="false",
                NETRA_EXTENSIONS="tests.faults.workload",
                NETRA_WORKFLOW=WORKFLOW,
                NETRA_DEBUG_POINTS=str(self.points.folder),
                NETRA_FAULTS_TOOL_SERVER=str(self.tools.port),
            )
        except BaseException:
            self.tools.close()
            raise
        stores = json.loads((folder / "home" / "house.json").read_text())
        self.database_url, self.redis_url = stores["database_url"], stores["redis_url"]
        self._keeper: int = stores["pid"]
        self.redis = redis.Redis.from_url(self.redis_url, socket_timeout=5)
        own = becomes(lambda: self.house.pid_of(AGENTS))
        self._command = Path(f"/proc/{own}/cmdline").read_text().split("\0")[:-1]
        variables = Path(f"/proc/{own}/environ").read_text().split("\0")
        self._environment = dict(variable.split("=", 1) for variable in variables if variable)
        # Cases make in minutes what people make in hours.
        self.execute(
            "update accounts_plan set tool_calls_per_minute = 1000000, tool_calls_per_day = 1000000, "
            "max_queued_runs = 1000000"
        )
        self._extra: dict[str, subprocess.Popen[bytes]] = {}
        self._spawned = 0
        self._people: dict[str, Person] = {}

    def second_session(self, person: Person) -> Person:
        """The same person in another browser."""
        return self.house.sign_in(person.email, PASSWORD)

    def person(self, name: str) -> Person:
        """Somebody of that name, the same one each time."""
        if name not in self._people:
            self._people[name] = self.house.sign_up(name)
        return self._people[name]

    # --- Processes ---------------------------------------------------------------------------------------------------

    def agent_workers(self) -> list[int]:
        """The agent workers that live, the house's own first."""
        own = self.house.pid_of(AGENTS)
        return ([own] if own else []) + [p.pid for p in self._extra.values() if p.poll() is None]

    def pids(self) -> list[int]:
        """Every process of the house, and the workers beside it."""
        home = str(self.folder / "home")
        return [pid for pid, words in processes() if home in words]

    def kill(self, pid: int) -> float:
        """Kill a process of the house with all that it has started; answers when, in Unix time."""
        os.killpg(pid, signal.SIGKILL)
        return time.time()

    def make_ready(self) -> None:
        """Wait until the house answers and both agent workers show that they live."""
        becomes(self.house.answers, within=UP_WITHIN)
        becomes(self._workers_live, within=UP_WITHIN)

    def _workers_live(self) -> bool:
        self.keep_workers()
        living = self.living()
        return self.house.pid_of(AGENTS) in living and living.issuperset(p.pid for p in self._extra.values())

    def keep_workers(self) -> None:
        """Bring back the worker beside the house when it has ended; the house brings back its own."""
        if threading.current_thread() is not threading.main_thread():
            return  # the kernel ends a child with the thread that started it
        self._extra = {name: process for name, process in self._extra.items() if process.poll() is None}
        if not self._extra:
            self._spawned += 1
            self._extra[f"extra{self._spawned}"] = self._spawn_worker(f"extra{self._spawned}")

    def _spawn_worker(self, name: str) -> "subprocess.Popen[bytes]":
        """One more agent worker: the house's own command and environment under another name."""
        with (self.folder / "extra.log").open("ab") as log:
            return spawn(
                [f"{name}@%h" if word.startswith("agents@") else word for word in self._command],
                death_signal=signal.SIGKILL,
                output=log,
                environment=self._environment,
                directory=ROOT,
            )

    @contextlib.contextmanager
    def nothing_restarted(self) -> Iterator[None]:
        """Keep the house from starting again what has ended."""
        os.kill(self._keeper, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._keeper, signal.SIGCONT)

    @contextlib.contextmanager
    def only_the_house_hears(self) -> Iterator[None]:
        """Have the worker beside the house take no rings for a while; it goes on with everything else."""
        names = [f"{name}@{socket.gethostname()}" for name in self._extra]
        with self._celery() as celery:
            assert celery.control.cancel_consumer("agents", destination=names, reply=True), "nobody stopped listening"
            try:
                yield
            finally:
                assert celery.control.add_consumer("agents", destination=names, reply=True), "nobody listens again"

    # --- Stores ------------------------------------------------------------------------------------------------------

    def rows(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        """What PostgreSQL holds, asked directly."""
        with psycopg.connect(self.database_url, autocommit=True, row_factory=dict_row) as connection:
            return connection.execute(query, parameters).fetchall()

    def execute(self, statement: str, **parameters: Any) -> None:
        """Change something, directly."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(statement, parameters)

    def living(self) -> set[int]:
        """The worker processes that have shown within two seconds that they live."""
        return {row["pid"] for row in self.rows(LIVING)}

    def hear_everybody(self) -> None:
        """Return once each agent worker has beaten anew: on a connection that no earlier fault has cost it."""
        [now] = self.rows("select clock_timestamp() as at")
        heard = "select pid from execution_workerprocess where beat_at > %(at)s"
        becomes(lambda: {row["pid"] for row in self.rows(heard, **now)}.issuperset(self.agent_workers()), within=10)

    def beat_at(self, pid: int) -> float:
        """When a worker process last showed that it lives, in Unix time."""
        rows = self.rows("select beat_at from execution_workerprocess where pid = %(pid)s", pid=pid)
        return max((row["beat_at"].timestamp() for row in rows), default=0.0)

    def ring(self, run: str, *, times: int) -> None:
        """Ring the doorbell for a run, as the house would."""
        with self._celery() as celery:
            for _ in range(times):
                celery.send_task("execution.wake", args=[run], queue="agents", ignore_result=True)

    def redis_answers(self) -> bool:
        try:
            return bool(self.redis.ping())
        except redis.RedisError:
            return False

    @contextlib.contextmanager
    def all_sessions_taken(self) -> Iterator["psycopg.Connection[Any]"]:
        """Take every session that PostgreSQL allows, away from whoever has it, but for those of the heartbeats.

        Yields one of them to look through.
        """
        with contextlib.ExitStack() as held:
            mine: list[psycopg.Connection[Any]] = []
            while not mine or _take_away(mine):
                with contextlib.suppress(psycopg.OperationalError):
                    while True:
                        mine.append(held.enter_context(psycopg.connect(self.database_url, autocommit=True)))
            yield mine[0]

    def dump(self) -> None:
        """Write what PostgreSQL holds of all runs beside the logs, for whoever has to find out what went wrong."""
        for table in ("run", "step", "toolcall", "question", "event"):
            with (self.folder / f"{table}.jsonl").open("w") as file:
                for row in self.rows(f"select * from conversations_{table} order by 1, 2"):
                    file.write(json.dumps(row, default=str) + "\n")

    def _celery(self) -> Celery:
        broker = self.redis_url.replace("unix://", "redis+socket://", 1)
        return Celery("faults", broker=broker, set_as_current=False)

    # --- The end -----------------------------------------------------------------------------------------------------

    def log(self) -> str:
        """What all processes have said."""
        extra = self.folder / "extra.log"
        return self.house.log() + (extra.read_text(errors="replace") if extra.exists() else "")

    def close(self) -> list[str]:
        """End everything; answers what was left behind, which should be nothing."""
        for process in self._extra.values():
            process.terminate()
        for process in self._extra.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
            process.wait()
        self.redis.close()
        try:
            self.house.close()
        finally:
            self.tools.close()
        return [f"I5 process {pid} was left behind" for pid in self.pids()]


def _take_away(mine: "list[psycopg.Connection[Any]]") -> bool:
    """End a session of somebody else, who is no heartbeat; False when there is none any more."""
    ended = mine[0].execute(_TAKE_AWAY, [[connection.info.backend_pid for connection in mine]]).fetchone()
    return ended is not None


def moment(random: Random, low: float, high: float) -> float:
    """Wait for a random time; answers how many seconds."""
    seconds = random.uniform(low, high)
    time.sleep(seconds)
    return seconds
