"""What a breakdown by model and by hour costs, beside the same figures out of the same file by other means.

Polars and pandas are tools of development: where one is not installed, its row says so and has no bar.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from math import isclose
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import duckdb

from apps.llm.catalogue import Catalogue
from apps.operations.benchmarks import Benchmark, Measured, register
from apps.optimization.breakdown import spend_breakdowns
from apps.optimization.calls import Calls, reading
from apps.optimization.conversion import Order, convert
from apps.optimization.duck import THREADS, quoted
from apps.optimization.results import BreakdownRow

CALLS, QUICK_CALLS = 1_000_000, 100_000
ROUNDS, QUICK_ROUNDS = 15, 3
MEMORY_MIB = 1024
BARS = {"DuckDB": 1.5, "Polars": 1.0, "pandas": 0.2}  # times what they take
SUMS = ("cost_pico", "input_tokens", "output_tokens", "cached_read_tokens", "cached_write_tokens")
# Calls, those without a known price, and SUMS, by model and by hour of the day.
Figures = Mapping[Any, tuple[int, ...]]
Both = tuple[Figures, Figures]
# A month of calls: one in fifty is of a model without a known price, one in forty failed and is not billed.
_MONTH = """
    SELECT TIMESTAMP '2026-09-01' + to_microseconds((i * 2.592e12 / {calls})::BIGINT) AS "timestamp",
        ['gpt-4o', 'gpt-4o-mini', 'gpt-4.1', 'claude-sonnet-4-5', 'claude-haiku-4-5', 'gemini-2.5-flash',
         'own-model'][(CASE WHEN i % 50 = 0 THEN 7 ELSE 1 + hash(i) % 6 END)::BIGINT] AS model,
        1000 + hash(i, 1) % 4000 AS input_tokens, 50 + hash(i, 2) % 900 AS output_tokens,
        hash(i, 3) % 1000 AS cached_read_tokens, CASE WHEN i % 40 = 1 THEN 'failed' ELSE 'succeeded' END AS status,
        'feature-' || i % 12 AS feature, 'user-' || hash(i, 4) % 3000 AS "user", 'session-' || i // 5 AS session
    FROM range({calls}) t(i)
"""


class Differs(Exception):
    """Another tool made other figures of the file, so that its time is that of something else."""


# --- The same figures in four ways -----------------------------------------------------------------------------------
# Each is ready to work: connections are open, libraries loaded. All read the file anew each time, on THREADS threads.


@contextmanager
def netra(file: Path) -> Iterator[Callable[[], Both]]:
    with reading(files=[file], catalogue=Catalogue(), memory_mib=MEMORY_MIB) as calls:
        yield partial(_by_netra, calls)


def _by_netra(calls: Calls) -> Both:
    found = spend_breakdowns(calls, ("model", "hour"))
    hours = {None if row.key is None else int(row.key[:2]): _figures(row) for row in found["hour"].rows}
    return {row.key: _figures(row) for row in found["model"].rows}, hours


def _figures(row: BreakdownRow) -> tuple[int, ...]:
    tokens = row.tokens
    sums = (int((row.cost_usd or 0) * 10**12), tokens.input, tokens.output, tokens.cached_read, tokens.cached_write)
    return (row.calls, row.unpriced_calls, *sums)


@contextmanager
def plain_sql(file: Path) -> Iterator[Callable[[], Both]]:
    with duckdb.connect() as connection:
        connection.execute(f"SET threads = {THREADS}")
        connection.execute("SET enable_progress_bar = false")
        yield lambda: (_by_sql(connection, file, "model"), _by_sql(connection, file, "hour(started_at)"))


def _by_sql(connection: duckdb.DuckDBPyConnection, file: Path, key: str) -> Figures:
    sums = ", ".join(f"sum({column})" for column in SUMS)
    rows = connection.execute(
        f"""SELECT {key}, count(*), count(*) FILTER (cost_pico IS NULL), {sums}
            FROM {quoted(str(file))} WHERE billed GROUP BY 1"""  # noqa: S608
    ).fetchall()
    return {row[0]: _whole(row[1:]) for row in rows}


@contextmanager
def polars(file: Path) -> Iterator[Callable[[], Both]]:
    os.environ.setdefault("POLARS_MAX_THREADS", str(THREADS))  # read when it is loaded
    yield partial(_by_polars, import_module("polars"), file)


def _by_polars(pl: Any, file: Path) -> Both:
    calls = pl.scan_parquet(file).filter(pl.col("billed"))
    figures = [pl.len(), pl.col("cost_pico").null_count().alias("unpriced"), *(pl.col(name).sum() for name in SUMS)]
    keys = pl.col("model"), pl.col("started_at").dt.hour()
    by_model, by_hour = pl.collect_all([calls.group_by(key).agg(figures) for key in keys])
    return {row[0]: _whole(row[1:]) for row in by_model.rows()}, {row[0]: _whole(row[1:]) for row in by_hour.rows()}


@contextmanager
def pandas(file: Path) -> Iterator[Callable[[], Both]]:
    import_module("pyarrow").set_cpu_count(THREADS)
    yield partial(_by_pandas, import_module("pandas"), file)


def _by_pandas(pd: Any, file: Path) -> Both:
    calls = pd.read_parquet(file, columns=["model", "started_at", "billed", *SUMS])
    calls = calls[calls["billed"]]
    calls = calls.assign(calls=1, unpriced=calls["cost_pico"].isna())
    figures = ["calls", "unpriced", *SUMS]
    by_model, by_hour = (
        calls.groupby(key, dropna=False)[figures].sum() for key in ("model", calls["started_at"].dt.hour)
    )
    return {row[0]: _whole(row[1:]) for row in by_model.itertuples()}, {
        row[0]: _whole(row[1:]) for row in by_hour.itertuples()
    }


def _whole(figures: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(int(each or 0) for each in figures)


WAYS = {"Netra": netra, "DuckDB": plain_sql, "Polars": polars, "pandas": pandas}
NEEDS = {"Polars": ("polars",), "pandas": ("pandas", "pyarrow")}


def installed(way: str) -> bool:
    return all(find_spec(module) for module in NEEDS.get(way, ()))


# --- Side by side ----------------------------------------------------------------------------------------------------


@cache
def seconds(quick: bool) -> Mapping[str, float]:
    """Median seconds of each way that is installed; they take turns, so that what else the machine does falls on all.

    Raises:
        Differs: they do not make the same figures of the file.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="netra-benchmark-"))
        file = imported(Path(folder), QUICK_CALLS if quick else CALLS)
        ready = {name: stack.enter_context(way(file)) for name, way in WAYS.items() if installed(name)}
        refuse_difference({name: work() for name, work in ready.items()})
        taken: dict[str, list[float]] = {name: [] for name in ready}
        for _ in range(QUICK_ROUNDS if quick else ROUNDS):
            for name, work in ready.items():
                began = perf_counter()
                work()
                taken[name].append(perf_counter() - began)
    return {name: median(times) for name, times in taken.items()}


def imported(folder: Path, calls: int) -> Path:
    """The month as an import leaves it."""
    source, target = folder / "source.parquet", folder / "calls.parquet"
    duckdb.execute(f"COPY ({_MONTH.format(calls=calls)}) TO {quoted(str(source))} (FORMAT parquet)")
    now = datetime(2026, 11, 1, tzinfo=UTC)
    convert(Order(source=source, target=target, catalogue=Catalogue(), now=now, memory_mib=MEMORY_MIB))
    return target


def refuse_difference(found: Mapping[str, Both]) -> None:
    """Raises Differs where a figure differs; pandas sums dollars as floats, for a column with gaps."""
    ours = found["Netra"]
    for way, theirs in found.items():
        for mine, other in zip(ours, theirs, strict=True):
            if mine.keys() != other.keys() or not all(
                isclose(one, another, rel_tol=1e-9)
                for key in mine
                for one, another in zip(mine[key], other[key], strict=True)
            ):
                raise Differs(f"{way} breaks the calls down otherwise: {other} instead of {mine}.")


def _beside(way: str, quick: bool) -> Measured:
    taken = seconds(quick)
    return Measured(value=taken["Netra"], floor=taken.get(way))


def benchmarks() -> list[Benchmark]:
    """A row for each tool; one that is not installed has no bar."""
    return [
        Benchmark(
            name=f"breakdown beside {way}" if installed(way) else f"breakdown alone ({way} is not installed)",
            unit="s",
            measure=partial(_beside, way),
            budget=bar if installed(way) else None,
            in_house=False,
        )
        for way, bar in BARS.items()
    ]


register(*benchmarks())
