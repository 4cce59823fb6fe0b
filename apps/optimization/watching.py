"""Long statements of DuckDB: run beside the caller, who is told how far they are and may stop them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for

import duckdb

LOOK_EVERY = 0.2  # seconds between two looks at how far a statement is

Progress = Callable[[float], None]  # percent, 0-100


def execute(connection: duckdb.DuckDBPyConnection, query: str, progress: Progress, *, start: float, end: float) -> None:
    """Execute `query`; `progress` hears percents that rise from `start` to `end`.

    If `progress` raises, the statement is interrupted, and the error goes on.
    """
    told = start
    with ThreadPoolExecutor(1, thread_name_prefix="duckdb") as thread:
        running = thread.submit(connection.execute, query)
        try:
            while wait_for([running], timeout=LOOK_EVERY).not_done:
                share = max(0.0, connection.query_progress()) / 100
                told = max(told, start + (end - start) * min(1.0, share))
                progress(told)
        except BaseException:
            while wait_for([running], timeout=LOOK_EVERY).not_done:
                connection.interrupt()  # again and again: one that comes between two pipelines is lost
            raise
        running.result()
    progress(end)
