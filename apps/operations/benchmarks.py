"""What `manage.py benchmark` measures: every app adds rows in a `benchmarks.py` of its own.

A row has a bar, or is there to be read. Its `budget` bounds the ratio of the measurement to its floor where it has a
floor (what the same machine gave without Netra, in the same run), else the measurement itself.
"""

import json
import os
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from django.conf import settings
from django.utils.module_loading import autodiscover_modules

from apps.errors import NetraError

ROUNDS = 3  # whose median counts; one with --quick
SECONDS = 0.5  # of calling a quick operation, per round
BATCH = 100  # calls between two looks at the clock
MIB = 1024**2
_TICKS = os.sysconf("SC_CLK_TCK")


class UnknownBenchmark(NetraError):
    """Nothing of that name is measured."""

    code = "benchmark.unknown"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A measurement in its row's unit, and what the same machine gave without Netra."""

    value: float
    floor: float | None = None


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One row; `measure` is told whether it has to be quick."""

    name: str
    unit: str
    measure: Callable[[bool], Measured]
    budget: float | None = None
    better: Literal["lower", "higher"] = "lower"
    in_house: bool = True  # whether it needs PostgreSQL, Redis and the processes of a house


@dataclass(frozen=True, kw_only=True)
class Row:
    """A benchmark after it was taken; `holds` is None where there is no bar."""

    name: str
    value: float
    unit: str
    budget: float | None
    floor: float | None
    ratio: float | None
    holds: bool | None


Furnishing = Callable[[], AbstractContextManager[Mapping[str, str]]]

_benchmarks: dict[str, Benchmark] = {}
_furnishings: list[Furnishing] = []


def register(*benchmarks: Benchmark) -> None:
    """Add rows; they are taken in the order in which they come."""
    _benchmarks.update({benchmark.name: benchmark for benchmark in benchmarks})


def furnish(furnishing: Furnishing) -> None:
    """Add what has to run beside the house; it yields variables for the house's environment."""
    _furnishings.append(furnishing)


def discover() -> None:
    """Import the `benchmarks` module of every app that has one."""
    autodiscover_modules("benchmarks")


def furnishings() -> Sequence[Furnishing]:
    """What has to run beside the house."""
    return tuple(_furnishings)


def chosen(names: Iterable[str] = ()) -> list[Benchmark]:
    """The benchmarks whose names begin with one of `names`; all without any.

    Raises:
        UnknownBenchmark: no name begins so.
    """
    wanted = tuple(names)
    for name in wanted:
        if not any(known.startswith(name) for known in _benchmarks):
            raise UnknownBenchmark(f"No benchmark begins with {name!r}; known: {', '.join(_benchmarks)}.")
    return [found for found in _benchmarks.values() if not wanted or found.name.startswith(wanted)]


def take(benchmark: Benchmark, *, quick: bool) -> Row:
    """Measure, and compare with the budget."""
    measured = benchmark.measure(quick)
    ratio = measured.value / measured.floor if measured.floor else None
    bounded, budget = measured.value if ratio is None else ratio, benchmark.budget
    holds = None
    if budget is not None:
        holds = bounded <= budget if benchmark.better == "lower" else bounded >= budget
    return Row(
        name=benchmark.name,
        value=measured.value,
        unit=benchmark.unit,
        budget=budget,
        floor=measured.floor,
        ratio=ratio,
        holds=holds,
    )


# --- Small operations of one process ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one operation takes: the 95th percentile of its seconds, how often it goes per second, and its memory."""

    seconds: float
    per_second: float
    kib: float  # at the peak, allocated by Python


def component(
    name: str, cost: Callable[[bool], Cost], *, milliseconds: float, per_second: float | None, in_house: bool = True
) -> None:
    """Three rows of one component, out of one measurement: latency, rate (with a bar, if any) and memory."""

    def row(what: str, unit: str, read: Callable[[Cost], float], **bar: Any) -> Benchmark:
        def measure(quick: bool) -> Measured:
            return Measured(value=read(cost(quick)))

        return Benchmark(name=f"{name} {what}", unit=unit, measure=measure, in_house=in_house, **bar)

    register(
        row("latency", "ms", lambda found: found.seconds * 1000, budget=milliseconds),
        row("rate", "per s", lambda found: found.per_second, budget=per_second, better="higher"),
        row("memory", "KiB", lambda found: found.kib),
    )


def cost_of(operation: Callable[[], object], quick: bool) -> Cost:
    """The cost of an operation that takes micro- to milliseconds and blocks."""
    operation()  # what is made at first use is no part of it
    with peak() as kib:
        operation()
        allocated = kib()
    return Cost(
        seconds=median(quick, lambda: percentile([_seconds(operation) for _ in range(BATCH * 2)], 0.95)),
        per_second=median(quick, lambda: _rate(operation)),
        kib=allocated,
    )


def _seconds(operation: Callable[[], object]) -> float:
    began = time.perf_counter()
    operation()
    return time.perf_counter() - began


def _rate(operation: Callable[[], object]) -> float:
    began, calls = time.perf_counter(), 0
    while (seconds := time.perf_counter() - began) < SECONDS:
        for _ in range(BATCH):
            operation()
        calls += BATCH
    return calls / seconds


@contextmanager
def peak() -> Iterator[Callable[[], float]]:
    """What Python allocates at most at one time, in KiB, from the beginning of the block to the call."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1] / 1024
    finally:
        tracemalloc.stop()


# --- Figures ---------------------------------------------------------------------------------------------------------


def rounds(quick: bool) -> range:
    return range(1 if quick else ROUNDS)


def median(quick: bool, measure: Callable[[], float]) -> float:
    """The median of some rounds."""
    return statistics.median(measure() for _ in rounds(quick))


def percentile(values: Iterable[float], share: float) -> float:
    """The value that `share` of the others do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


# --- The house, and its processes (Linux) ----------------------------------------------------------------------------


def house() -> dict[str, Any]:
    """What the house says of itself: `url`, `pid`, `database_url` and `redis_url`."""
    return dict(json.loads((settings.NETRA_HOME / "house.json").read_text()))


def processes(pid: int) -> Iterator[int]:
    """A process and all that come from it, those that end meanwhile left out."""
    try:
        children = [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in _words(path)]
    except (FileNotFoundError, ProcessLookupError):
        return
    yield pid
    for child in children:
        yield from processes(child)


def processes_of_house(words: str) -> list[int]:
    """The children of the house whose command lines contain `words`, and what comes from them."""
    return [pid for child in processes(house()["pid"]) if words in command_line(child) for pid in processes(child)]


def command_line(pid: int) -> str:
    """The words of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def cpu_seconds(pids: Iterable[int]) -> float:
    """The CPU that processes have used so far, with that of their children that have ended."""
    return sum(sum(map(int, _stat(pid)[11:15])) for pid in set(pids)) / _TICKS


def peak_mib(pid: int) -> float:
    """The most memory that a process has had resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _stat(pid: int) -> list[str]:
    """The fields of `/proc/PID/stat` from the state on, which is number 3 in proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _words(path: Path) -> list[str]:
    return path.read_text().split()
