"""`manage.py benchmark`: what Netra takes on this machine, beside its budgets and beside floors without it."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from argparse import SUPPRESS
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser
from rich.console import Console
from rich.table import Table

from apps.errors import NetraError
from apps.operations import benchmarks
from apps.operations.benchmarks import Benchmark, Row
from apps.operations.commands import COULD_NOT_RUN, NetraCommand
from apps.operations.configuration import is_set
from apps.operations.processes import ended, spawn
from apps.operations.startup import CHECKOUT

CORES = 2  # that the house, its clients and the floors share
CLOSES_WITHIN = 15.0  # seconds
_STORES = ("DATABASE_URL", "REDIS_URL")
_ANSWERS = {None: "", True: "yes", False: "NO"}


class StoresConfigured(NetraError):
    """What is measured writes a lot, and not into stores that are used."""

    code = "benchmark.stores_configured"


class NotOnThisSystem(NetraError):
    """The processes of a house are measured through /proc."""

    code = "benchmark.needs_linux"


class HouseFailed(NetraError):
    """The house that should have been measured did not open."""

    code = "benchmark.no_house"


class Command(NetraCommand):
    help = "Measure a house of its own, in a temporary home, beside budgets and floors. Takes nine minutes."
    needs_house = False

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--only", action="append", default=[], metavar="NAME", help="rows whose names begin so")
        parser.add_argument("--quick", action="store_true", help="one round instead of three, fewer runs and kills")
        # Given by this command to itself: the settings know the stores of a house that is there to be measured.
        parser.add_argument("--in-house", action="store_true", help=SUPPRESS)

    def run(self, *, only: Sequence[str], quick: bool, in_house: bool, **_: Any) -> bool:
        benchmarks.discover()
        wanted = benchmarks.chosen(only)
        if not in_house and any(benchmark.in_house for benchmark in wanted):
            return _in_a_house([*(f"--only={name}" for name in only), *["--quick"] * quick, *["--json"] * self.as_json])
        if in_house and not benchmarks.house().get("database_url"):
            raise StoresConfigured("This house has stores that are used; leave out --in-house.")
        rows = [self._taken(benchmark, quick) for benchmark in wanted]
        self.tell({"rows": [asdict(row) for row in rows]})
        if not self.as_json:
            console = Console(width=100)
            with console.capture() as drawn:
                console.print(table(rows))
            self.say(drawn.get())
        return all(row.holds is not False for row in rows)

    def _taken(self, benchmark: Benchmark, quick: bool) -> Row:
        self.stderr.write(f"{benchmark.name} ...")
        return benchmarks.take(benchmark, quick=quick)


def table(rows: Sequence[Row]) -> Table:
    """The rows for a person."""
    drawn = Table("what", "measured", "floor", "ratio", "bar", "holds", box=None, pad_edge=False)
    for column in drawn.columns[1:5]:
        column.justify = "right"
    for row in rows:
        figures = [f"{figure(row.value)} {row.unit}", figure(row.floor), figure(row.ratio), figure(row.budget)]
        drawn.add_row(row.name, *figures, _ANSWERS[row.holds])
    return drawn


def figure(value: float | None) -> str:
    """A number with three digits that count; empty where there is none."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


# --- The house that is measured --------------------------------------------------------------------------------------


def _in_a_house(words: Sequence[str]) -> bool:
    """Do this command again in a process whose settings know the stores of a new house; answers whether all holds.

    Raises:
        NotOnThisSystem, StoresConfigured, HouseFailed: it could not be done.
    """
    if sys.platform != "linux":
        raise NotOnThisSystem("The processes of a house are measured through /proc, which only Linux has.")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    if outside := [name for name in _STORES if is_set(name) and name not in os.environ]:
        raise StoresConfigured(
            f"A benchmark needs stores of its own; take {' and '.join(outside)} out of .env meanwhile."
        )
    with _house() as environment:
        command = [sys.executable, str(CHECKOUT / "manage.py"), "benchmark", "--in-house", *words]
        code = subprocess.run(command, env=environment).returncode
    if code == COULD_NOT_RUN:
        sys.exit(code)  # it has said why
    if code not in (0, 1):
        raise HouseFailed("The benchmark broke off; the reason stands above.")
    return code == 0


@contextmanager
def _house() -> Iterator[Mapping[str, str]]:
    """Open a house with durable stores in a temporary home, and yield the environment that leads to it.

    Raises:
        HouseFailed: it did not open.
    """
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="netra-bench-", ignore_cleanup_errors=True))
        )
        folder.chmod(0o711)  # PostgreSQL's service user has to pass through
        environment = {name: value for name, value in os.environ.items() if name not in _STORES}
        environment |= {"NETRA_HOME": str(folder / "home"), "NETRA_SAMPLE_DATA": "false", "NETRA_LOG_LEVEL": "WARNING"}
        for furnishing in benchmarks.furnishings():
            environment |= stack.enter_context(furnishing())
        log = stack.enter_context((folder / "start.log").open("wb"))
        words = ["start", "--json", "--port", str(_free_port())]
        process = spawn(
            [sys.executable, CHECKOUT / "manage.py", *words],
            death_signal=signal.SIGTERM,
            output=subprocess.PIPE,
            errors=log,
            environment=environment,
        )
        stack.callback(_close, process)
        said = process.stdout.readline() if process.stdout else b""
        if not said.strip() or not json.loads(said).get("ready"):
            raise HouseFailed(f"The house did not open:\n{(folder / 'start.log').read_text(errors='replace')}")
        yield environment


def _close(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    if not ended(process, within=CLOSES_WITHIN):
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
