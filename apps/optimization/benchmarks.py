"""What an import costs beside the same file read and written by DuckDB alone, which is as fast as it can be here, and
what a replay of prefix caches costs beside the dictionary that everybody would write."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import numpy as np

from apps.llm.catalogue import Catalogue
from apps.operations.benchmarks import Benchmark, Measured, median, register, rounds
from apps.optimization import benchmark_breakdown as benchmark_breakdown
from apps.optimization.conversion import Order, convert
from apps.optimization.duck import THREADS, quoted
from apps.optimization.prefix.replay import Stream, replay

CALLS = 1_000_000
QUICK_CALLS = 200_000
MEMORY_MIB = 1024
MOST = 3.0  # times what DuckDB alone takes
BLOCKS = 10_000_000
QUICK_BLOCKS = 1_000_000
PER_CALL = 100  # blocks
DAY = 86_400.0  # seconds
LIFE = 300.0  # seconds since a block was last used
LEAST = 10.0  # times as many blocks per second as the dictionary
NOW = datetime(2026, 11, 1, tzinfo=UTC)
# A day's traffic of a proxy, in the columns of LiteLLM_SpendLogs; cached tokens stand in the usage object.
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
        'session-' || (i // 5) AS session_id, 'success' AS status
    FROM (SELECT range AS i, TIMESTAMP '2026-09-01' + to_seconds((range * 2.4)::BIGINT) AS begun FROM range({calls}))
"""


def _import(form: str, quick: bool) -> Measured:
    """Seconds of an import, and of DuckDB alone."""
    with TemporaryDirectory(prefix="netra-benchmark-") as folder, _alone() as connection:
        source, target = Path(folder) / f"calls.{form}", Path(folder) / "calls.parquet"
        rows = _SPEND_LOGS.format(calls=QUICK_CALLS if quick else CALLS)
        connection.execute(f"COPY ({rows}) TO {quoted(str(source))} (FORMAT {form})")
        file = quoted(str(source))
        read = f"read_csv({file}, all_varchar = true)" if form == "csv" else f"read_json({file})"
        bare = f"COPY (FROM {read}) TO {quoted(str(target))} (FORMAT parquet, COMPRESSION zstd)"
        floor = median(quick, lambda: _seconds(partial(connection.execute, bare)))
        order = Order(source=source, target=target, catalogue=_catalogue(), now=NOW, memory_mib=MEMORY_MIB)
        return Measured(value=median(quick, lambda: _seconds(partial(convert, order))), floor=floor)


def _replay(quick: bool) -> Measured:
    """Blocks per second of CPU, from raw names, and those of a Python loop with one dictionary."""
    stream = _prompts(QUICK_BLOCKS if quick else BLOCKS)
    columns = [each.tolist() for each in (stream.at, stream.usable_at, stream.start, stream.names, stream.tokens)]
    ours, theirs = [], []
    gc.freeze()  # the floor would walk through its own lists again and again
    for _ in rounds(quick):
        began = time.process_time()
        expected = _dictionary(*columns)
        theirs.append(len(stream.names) / (time.process_time() - began))
        replay(stream, ttl=LIFE)  # warms up: compiles, and finds the memory that the dictionary gave back
        began = time.process_time()
        found = replay(stream, ttl=LIFE).tokens
        ours.append(len(stream.names) / (time.process_time() - began))
        if found.tolist() != expected:
            raise RuntimeError("The replay and the dictionary do not read the same.")
    gc.unfreeze()
    return Measured(value=statistics.median(ours), floor=statistics.median(theirs))


def _prompts(blocks: int) -> Stream:
    """A day of prompts that begin as one of 50,000 others does, by Zipf's law, and go on by themselves."""
    random = np.random.default_rng(7)
    calls = blocks // PER_CALL
    beginning, shared = random.zipf(1.1, calls) % 50_000, random.integers(10, PER_CALL, calls)
    place, call = np.tile(np.arange(PER_CALL), calls), np.repeat(np.arange(calls), PER_CALL)
    whose = np.where(place < np.repeat(shared, PER_CALL), np.repeat(beginning, PER_CALL), call + 50_000)
    at = np.sort(random.uniform(0, DAY, calls))
    return Stream(
        at=at,
        usable_at=at + random.exponential(2.0, calls),
        start=np.arange(calls + 1) * PER_CALL,
        # An odd factor keeps names apart and spreads them over 64 bits.
        names=(whose * PER_CALL + place).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15),
        tokens=np.full(calls * PER_CALL, 512),
    )


def _dictionary(
    at: list[float], usable_at: list[float], start: list[int], names: list[int], tokens: list[int]
) -> list[int]:
    """Tokens that each call reads, as it would be written without a compiler."""
    held: dict[int, tuple[float, float]] = {}  # by name: the last use, and from when it can be read
    read, begin = [], 0
    for call, now in enumerate(at):
        usable, end, reading, found = usable_at[call], start[call + 1], True, 0
        for position in range(begin, end):
            name = names[position]
            known = held.get(name)
            if known is not None and now - known[0] <= LIFE:
                readable = known[1]
                if reading and readable <= now:
                    found += tokens[position]
                else:
                    reading = False
                held[name] = (now, readable if readable < usable else usable)
            else:
                reading = False
                held[name] = (now, usable)
        read.append(found)
        begin = end
    return read


register(
    Benchmark(name="prefix replay", unit="blocks/s", measure=_replay, budget=LEAST, better="higher", in_house=False)
)


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
    )
)
