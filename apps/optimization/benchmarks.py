"""What an import costs beside the same file read and written by DuckDB alone, which is as fast as it can be here, and
how the whole job grows with the calls."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from apps.errors import NetraError
from apps.llm.catalogue import Catalogue
from apps.operations.benchmarks import Benchmark, Measured, median, register
from apps.operations.startup import CHECKOUT
from apps.optimization import benchmark_breakdown as benchmark_breakdown
from apps.optimization import benchmark_replay as benchmark_replay
from apps.optimization.conversion import Order, convert
from apps.optimization.duck import THREADS, quoted

CALLS = 1_000_000
QUICK_CALLS = 200_000
MEMORY_MIB = 1024
MOST = 3.0  # times what DuckDB alone takes
# Of the whole job, each ten times as many calls as the one before; with --quick a tenth of each.
SIZES = {"small": 100_000, "medium": 1_000_000, "large": 10_000_000}
MOST_GROWTH = 1.3  # times ten times the cost of a tenth of the calls; more is not linear
MOST_MIB = 2048.0
NOW = datetime(2026, 11, 1, tzinfo=UTC)
# A month's traffic of a proxy, in the columns of LiteLLM_SpendLogs; cached tokens stand in the usage object.
_SPEND_LOGS = """
    SELECT 'req-' || lpad(i::VARCHAR, 9, '0') AS request_id, 'acompletion' AS call_type,
        md5((i % 50)::VARCHAR) AS api_key, round(0.001 + (i % 97) * 0.0001, 6) AS spend,
        1200 + i % 3000 + i % 400 AS total_tokens, 1000 + i % 3000 AS prompt_tokens, 200 + i % 400 AS completion_tokens,
        strftime(begun, '%Y-%m-%d %H:%M:%S') AS "startTime",
        strftime(begun + INTERVAL 3 SECOND, '%Y-%m-%d %H:%M:%S') AS "endTime",
        strftime(begun + INTERVAL 1 SECOND, '%Y-%m-%d %H:%M:%S') AS "completionStartTime",
        ['gpt-4o', 'gpt-4o-mini', 'claude-sonnet-4-5', 'gpt-4.1'][1 + i % 4] AS model,
        ['openai', 'openai', 'anthropic', 'openai'][1 + i % 4] AS custom_llm_provider,
        'user-' || (i % 500) AS "user",
        json_object('usage_object', json_object('prompt_tokens_details', json_object('cached_tokens', i % 500)),
            'user_api_key_alias', 'team-' || (i % 7)) AS metadata,
        'False' AS cache_hit, json_array('feature-' || (i % 6)) AS request_tags, 'end-' || (i % 3000) AS end_user,
        'session-' || (i // 5) AS session_id, 'success' AS status {more}
    FROM (SELECT range AS i, TIMESTAMP '2026-09-01' + to_seconds(range * 2400000 // {calls}) AS begun
          FROM range({calls}))
"""
# A sixth of the calls ask what another asked 1,200 calls before.
_MESSAGES = """, json_array(json_object('role', 'user', 'content', 'What is ' ||
    CASE WHEN i % 2400 >= 1200 AND i % 3 = 0 THEN i - 1200 ELSE i END || '?')) AS messages"""


def _import(form: str, quick: bool) -> Measured:
    """Seconds of an import, and of DuckDB alone."""
    with TemporaryDirectory(prefix="netra-benchmark-") as folder, _alone() as connection:
        source, target = Path(folder) / f"calls.{form}", Path(folder) / "calls.parquet"
        rows = _SPEND_LOGS.format(calls=QUICK_CALLS if quick else CALLS, more="")
        connection.execute(f"COPY ({rows}) TO {quoted(str(source))} (FORMAT {form})")
        file = quoted(str(source))
        read = f"read_csv({file}, all_varchar = true)" if form == "csv" else f"read_json({file})"
        bare = f"COPY (FROM {read}) TO {quoted(str(target))} (FORMAT parquet, COMPRESSION lz4_raw)"
        floor = median(quick, lambda: _seconds(partial(connection.execute, bare)))
        order = Order(source=source, target=target, catalogue=_catalogue(), now=NOW, memory_mib=MEMORY_MIB)
        return Measured(value=median(quick, lambda: _seconds(partial(convert, order))), floor=floor)


@dataclass(frozen=True, kw_only=True)
class _Whole:
    """What the whole job took in a process of its own."""

    seconds: float
    mib: float  # the most it had resident


class WrongAnswer(NetraError):
    """A measurement that is none: the job did not do what it should have done."""

    code = "benchmark.void"


# A process's peak starts from that of the one that started it (Linux keeps it over exec), and a benchmark is large by
# the time it comes here. So a small process starts the one that is measured, and says what that one took.
_STARTS_SMALL = """import resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
sys.stderr.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(status)"""


@cache
def _whole(calls: int) -> _Whole:
    """`manage.py analyze` of a file of so many calls: import and every analysis.

    Raises:
        WrongAnswer: it failed, or did not see all calls.
    """
    with TemporaryDirectory(prefix="netra-benchmark-") as folder:
        source, answer = Path(folder) / "calls.csv", Path(folder) / "answer.json"
        with _alone() as connection:
            rows = _SPEND_LOGS.format(calls=calls, more=_MESSAGES)
            connection.execute(f"COPY ({rows}) TO {quoted(str(source))} (FORMAT csv)")
        began = time.perf_counter()
        with answer.open("wb") as out:
            command = [sys.executable, str(CHECKOUT / "manage.py"), "analyze", str(source), "--json"]
            ended = subprocess.run(
                [sys.executable, "-c", _STARTS_SMALL, *command], stdout=out, stderr=subprocess.PIPE, check=False
            )
        seconds = time.perf_counter() - began
        if ended.returncode or json.loads(answer.read_text())["calls"] != calls:
            raise WrongAnswer(f"An analysis of {calls:,} calls ended with {answer.read_text()[:500]!r}.")
        return _Whole(seconds=seconds, mib=int(ended.stderr.split()[-1]) / 1024)


def _grown(size: str, quick: bool) -> Measured:
    """Seconds for a size, beside ten times what the size before took."""
    sizes = [calls // 10 if quick else calls for calls in SIZES.values()]
    place = list(SIZES).index(size)
    floor = 10 * _whole(sizes[place - 1]).seconds if place else None
    return Measured(value=_whole(sizes[place]).seconds, floor=floor)


def _memory(quick: bool) -> Measured:
    calls = SIZES["large"]
    return Measured(value=_whole(calls // 10 if quick else calls).mib)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@contextmanager
def _alone() -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB as an import has it: as many threads, as much memory."""
    with duckdb.connect() as connection:
        connection.execute(f"SET threads = {THREADS}")
        connection.execute(f"SET memory_limit = '{MEMORY_MIB}MiB'")
        connection.execute("SET enable_progress_bar = false")
        yield connection


@cache
def _catalogue() -> Catalogue:
    return Catalogue()


register(
    *(
        Benchmark(name=f"import of {title}", unit="s", measure=partial(_import, form), budget=MOST, in_house=False)
        for form, title in (("csv", "spend logs as CSV"), ("json", "spend logs as JSON lines"))
    ),
    *(
        Benchmark(
            name=f"end to end, {size}",
            unit="s",
            measure=partial(_grown, size),
            budget=None if size == "small" else MOST_GROWTH,
            in_house=False,
        )
        for size in SIZES
    ),
    Benchmark(name="end to end, memory", unit="MiB", measure=_memory, budget=MOST_MIB, in_house=False),
)
