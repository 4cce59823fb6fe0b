"""Whole runs through web process, worker and stores, beside floors written by hand; waiting runs; killed workers."""

import asyncio
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache

import uvloop
from django.conf import settings
from django.db import connection

from apps.accounts.services import create_api_key
from apps.accounts.tenancy import Principal
from apps.agents.benchmark import processes
from apps.agents.benchmark.clients import Taken
from apps.agents.benchmark.kills import kill_again_and_again
from apps.agents.benchmark.processes import AGENTS, WEB, BrokenRound
from apps.execution.benchmarks import TOOL, claimed, settle, somebody, worker
from apps.execution.claims import Claim
from apps.execution.dispatcher import RequestScopedToolDispatcher
from apps.operations.benchmarks import (
    Benchmark,
    Measured,
    cpu_seconds,
    furnish,
    peak_mib,
    percentile,
    processes_of_house,
    register,
    rounds,
)
from apps.operations.benchmarks import processes as family

CLIENTS = 8
CROWD = 50  # runs that start at the same time
WAITING = 200  # runs that wait for a model at the same time
WAIT_SECONDS = 2.0
EACH = 5  # runs of one person at the same time
KILLS, QUICK_KILLS = 20, 5
WARM = 40  # runs before the first round


@cache
def _keys() -> list[str]:
    """API keys of as many people as the waiting runs need."""
    people = [somebody() for _ in range(WAITING // EACH)]
    return [create_api_key(person, name="benchmark", scope="write", days=None)[1] for person in people]


@cache
def _users() -> list[str]:
    return [str(somebody().user_id) for _ in range(CLIENTS)]


def _runs(quick: bool) -> int:
    """Runs of one round."""
    return 80 if quick else 320


def _per_second(taken: Taken) -> float:
    return len(taken.whole) / taken.seconds


# --- Rates, beside a floor of two processes --------------------------------------------------------------------------


@dataclass
class Side:
    """What one kind of runs took, per round: how many went per second, and per run CPU seconds and commits."""

    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    commits: list[float] = field(default_factory=list)

    def take(self, work: Callable[[], Taken], pids: Callable[[], list[int]]) -> None:
        """Do the work of one round; its CPU is that of the processes `pids`."""
        used, written = cpu_seconds(pids()), _writing_transactions()
        taken = work()
        runs = len(taken.whole)
        self.rates.append(runs / taken.seconds)
        self.cpu.append((cpu_seconds(pids()) - used) / runs)
        self.commits.append((_writing_transactions() - written) / runs)


@cache
def _sides(quick: bool) -> dict[str, Side]:
    """Netra and its floors in turns, so that whatever else the machine does falls on both."""
    runs = _runs(quick)
    with processes.floor_worker("prefork", 2) as floor:
        turns: dict[str, tuple[Callable[[], Taken], Callable[[], list[int]]]] = {
            "engine": (lambda: processes.engine_clients(_users(), runs=runs), _of_house),
            "engine by hand": (_by_hand("bare", runs), lambda: list(family(floor))),
            "whole": (lambda: _whole(runs), _of_house),
            "whole by hand": (_by_hand("whole", runs), lambda: list(family(floor))),
            "recipe": (_by_hand("recipe", runs), lambda: list(family(floor))),
            "nothing": (_by_hand("nothing", runs), lambda: list(family(floor))),
        }
        sides = {name: Side() for name in turns}
        processes.clients(_keys(), count=CLIENTS, runs=WARM)
        processes.engine_clients(_users(), runs=WARM)
        for _ in rounds(quick):
            for name, turn in turns.items():
                sides[name].take(*turn)
    return sides


def _by_hand(task: str, runs: int) -> Callable[[], Taken]:
    return lambda: processes.floor_clients(task, count=CLIENTS, runs=runs)


def _of_house() -> list[int]:
    """The processes that work on runs: web and agent worker."""
    return [*processes_of_house(WEB), *processes_of_house(AGENTS)]


def _whole(runs: int) -> Taken:
    """Whole runs.

    Raises:
        BrokenRound: an event that a client saw is not stored, or the other way round.
    """
    before = _asked("select count(*) from conversations_event")
    taken = processes.clients(_keys(), count=CLIENTS, runs=runs)
    stored = _asked("select count(*) from conversations_event") - before
    if stored != sum(taken.events):
        raise BrokenRound(f"{sum(taken.events)} events were seen, {stored} are stored.")
    return taken


def _writing_transactions() -> int:
    """How many transactions have written so far: PostgreSQL numbers those and no others."""
    return _asked("select pg_snapshot_xmax(pg_current_snapshot())::text::bigint")


def _asked(query: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return int(cursor.fetchone()[0])


def _side(figures: Callable[[Side], list[float]], name: str, floor: str | None = None) -> Callable[[bool], Measured]:
    """The median of the rounds of one side, beside that of another."""

    def measure(quick: bool) -> Measured:
        sides = _sides(quick)
        beside = None if floor is None else statistics.median(figures(sides[floor]))
        return Measured(value=statistics.median(figures(sides[name])), floor=beside)

    return measure


def _rate(side: Side) -> list[float]:
    return side.rates


def _milliseconds(side: Side) -> list[float]:
    return [seconds * 1000 for seconds in side.cpu]


def _commits(side: Side) -> list[float]:
    return side.commits


# --- The first event of many runs at once, beside a floor of threads ------------------------------------------------


@dataclass
class Starts:
    """Per round: milliseconds to the first event (95th percentile), and the rate of the floor."""

    first: list[float] = field(default_factory=list)
    first_floor: list[float] = field(default_factory=list)
    whole_floor: list[float] = field(default_factory=list)


@cache
def _starts(quick: bool) -> Starts:
    starts = Starts()
    with processes.floor_worker("threads", WAITING):
        processes.clients(_keys(), count=CROWD, runs=CROWD)
        processes.floor_clients("whole", count=CROWD, runs=CROWD)
        for _ in rounds(quick):
            taken = processes.clients(_keys(), count=CROWD, runs=CROWD)
            starts.first.append(percentile(taken.first_event, 0.95) * 1000)
            taken = processes.floor_clients("whole", count=CROWD, runs=CROWD)
            starts.first_floor.append(percentile(taken.first_event, 0.95) * 1000)
            taken = processes.floor_clients("whole", count=CLIENTS, runs=_runs(quick))
            starts.whole_floor.append(_per_second(taken))
    return starts


def _first_event(quick: bool) -> Measured:
    starts = _starts(quick)
    return Measured(value=statistics.median(starts.first), floor=statistics.median(starts.first_floor))


def _beside_threads(quick: bool) -> Measured:
    whole, floor = _sides(quick)["whole"].rates, _starts(quick).whole_floor
    return Measured(value=statistics.median(whole), floor=statistics.median(floor))


# --- What is really stored, per second -------------------------------------------------------------------------------


def _stored_calls(quick: bool) -> Measured:
    times = _runs(quick) // CLIENTS
    with worker() as me:
        held = [claimed(somebody(), worker=me) for _ in range(CLIENTS)]
        seconds = uvloop.run(_call_side_by_side(held, times))
        for claim in held:
            settle(claim)
    floor = processes.floor_clients("tool", count=CLIENTS, runs=times * CLIENTS, direct=True)
    return Measured(value=times * CLIENTS / seconds, floor=_per_second(floor))


async def _call_side_by_side(held: list[Claim], times: int) -> float:
    async def call(claim: Claim) -> None:
        with RequestScopedToolDispatcher(claim.context, {}) as dispatcher:
            dispatcher.register_tool(TOOL)
            for number in range(times):
                await dispatcher.execute_tool(TOOL.name, {"key": "margin"}, call=f"call_{number}")

    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.gather(*(call(claim) for claim in held))
    return loop.time() - began


def _stored_workflows(quick: bool) -> Measured:
    runs = _runs(quick)
    processes.floor_clients("workflow", count=CLIENTS, runs=CLIENTS, direct=True)
    with worker() as me, ThreadPoolExecutor(CLIENTS) as pool:
        people = [somebody() for _ in range(CLIENTS)]

        def settle_all(person: Principal) -> None:
            try:
                for _ in range(runs // CLIENTS):
                    settle(claimed(person, worker=me))
            finally:
                connection.close()

        began = time.monotonic()
        list(pool.map(settle_all, people))
        seconds = time.monotonic() - began
    floor = processes.floor_clients("workflow", count=CLIENTS, runs=runs, direct=True)
    return Measured(value=runs / seconds, floor=_per_second(floor))


# --- Waiting for a model ---------------------------------------------------------------------------------------------


@cache
def _waiting(quick: bool) -> list[float]:
    """Seconds for all waiting runs together, per round."""
    text = f"[wait {WAIT_SECONDS * 1000:.0f} ms] What is the margin?"
    processes.clients(_keys(), count=CROWD, runs=CROWD)
    return [processes.clients(_keys(), count=WAITING, runs=WAITING, text=text).seconds for _ in rounds(quick)]


def _waiting_seconds(quick: bool) -> Measured:
    return Measured(value=statistics.median(_waiting(quick)), floor=WAIT_SECONDS)


def _waiting_memory(quick: bool) -> Measured:
    _waiting(quick)
    return Measured(value=peak_mib(processes.agent_worker()))


@cache
def _compared(quick: bool) -> dict[bool, dict[str, float]]:
    """The same waiting on threads (True) and on one event loop (False): medians of seconds, CPU and memory."""
    question = {"url": settings.LLM_BASE_URL, "calls": WAITING, "milliseconds": int(WAIT_SECONDS * 1000)}
    taken: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    for _ in rounds(quick):
        for threads, found in taken.items():
            found.append(processes.said_by("waiting", question | {"threads": threads}))
    return {
        threads: {name: statistics.median(one[name] for one in found) for name in found[0]}
        for threads, found in taken.items()
    }


def _loop_against_threads(name: str) -> Callable[[bool], Measured]:
    """One event loop, with threads as its floor."""

    def measure(quick: bool) -> Measured:
        found = _compared(quick)
        return Measured(value=found[False][name], floor=found[True][name])

    return measure


# --- Killed workers --------------------------------------------------------------------------------------------------


@cache
def _kills(quick: bool, spare: bool) -> list[float]:
    return kill_again_and_again(_keys()[0], times=QUICK_KILLS if quick else KILLS, spare=spare)


def _killed(spare: bool, figure: Callable[[list[float]], float]) -> Callable[[bool], Measured]:
    return lambda quick: Measured(value=figure(_kills(quick, spare)))


furnish(processes.local_model)
register(
    Benchmark(name="raw Celery task", unit="per s", measure=_side(_rate, "nothing"), better="higher"),
    Benchmark(name="peers' recipe", unit="per s", measure=_side(_rate, "recipe"), better="higher"),
    Benchmark(
        name="engine runs",
        unit="per s",
        measure=_side(_rate, "engine", "engine by hand"),
        budget=0.5,
        better="higher",
    ),
    Benchmark(name="engine runs, commits", unit="each", measure=_side(_commits, "engine", "engine by hand")),
    Benchmark(
        name="whole runs", unit="per s", measure=_side(_rate, "whole", "whole by hand"), budget=0.22, better="higher"
    ),
    Benchmark(name="whole runs, commits", unit="each", measure=_side(_commits, "whole", "whole by hand")),
    Benchmark(name="whole runs, CPU", unit="ms each", measure=_side(_milliseconds, "whole", "whole by hand"), budget=6),
    Benchmark(name="first event of 50 runs", unit="ms", measure=_first_event, budget=2),
    Benchmark(name="whole runs beside threads", unit="per s", measure=_beside_threads, better="higher"),
    Benchmark(name="stored tool calls", unit="per s", measure=_stored_calls, better="higher"),
    Benchmark(name="stored workflows", unit="per s", measure=_stored_workflows, better="higher"),
    Benchmark(name="200 waiting runs", unit="s", measure=_waiting_seconds, budget=2),
    Benchmark(name="200 waiting runs, memory", unit="MiB", measure=_waiting_memory, budget=400),
    Benchmark(name="loop against threads, time", unit="s", measure=_loop_against_threads("seconds")),
    Benchmark(name="loop against threads, CPU", unit="s", measure=_loop_against_threads("cpu_seconds")),
    Benchmark(name="loop against threads, memory", unit="MiB", measure=_loop_against_threads("mib")),
    Benchmark(name="killed beside another, median", unit="s", measure=_killed(True, statistics.median), budget=6),
    Benchmark(name="killed beside another, worst", unit="s", measure=_killed(True, max), budget=8),
    Benchmark(name="killed alone, median", unit="s", measure=_killed(False, statistics.median), budget=6),
    Benchmark(name="killed alone, worst", unit="s", measure=_killed(False, max), budget=8),
)
