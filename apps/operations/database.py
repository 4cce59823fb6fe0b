"""The one way from an event loop to the ORM."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from channels.db import DatabaseSyncToAsync

P = ParamSpec("P")
T = TypeVar("T")

# Analyses run for seconds; they must never keep a claim or an event waiting for a thread.
_ANALYSES = ThreadPoolExecutor(max_workers=2, thread_name_prefix="analysis")
# Threads of the process that talk to PostgreSQL; more would only queue for a connection of the pool.
_THREADS = ThreadPoolExecutor(max_workers=8, thread_name_prefix="database")


async def in_database(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` on a database thread and return its connection afterwards.

    Asgiref's default would send every socket of the process through one thread, so that one slow query froze all.
    """
    return await DatabaseSyncToAsync(work, thread_sensitive=False, executor=_THREADS)(*args, **kwargs)  # type: ignore[no-any-return]


async def in_analysis(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Like `in_database`, for work that computes for long; at most two at a time in a process."""
    return await DatabaseSyncToAsync(work, thread_sensitive=False, executor=_ANALYSES)(*args, **kwargs)  # type: ignore[no-any-return]
