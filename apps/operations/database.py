"""The ways to PostgreSQL: from an event loop to threads that keep a connection; and what can be stored there."""

import asyncio
import contextvars
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

import stamina
from django.db import InterfaceError, OperationalError, close_old_connections, connection
from psycopg_pool.base import AttemptWithBackoff

P = ParamSpec("P")
T = TypeVar("T")

KEPT_FOR = 0.5  # seconds that a thread keeps an idle connection without asking whether it still works
OUTAGE = 20.0  # seconds that PostgreSQL may be away before work in hand is given up

# The pool would wait longer and longer between two attempts; after an outage of seconds, requests would wait as long.
AttemptWithBackoff.INITIAL_DELAY = 0.25
AttemptWithBackoff.DELAY_BACKOFF = 1.0

_UNHEARD = (OperationalError, InterfaceError)
_PATIENTLY = stamina.RetryingCaller(attempts=None, timeout=OUTAGE, wait_initial=0.1, wait_max=1.0).on(_UNHEARD)
_PATIENTLY_ASYNC = stamina.AsyncRetryingCaller(attempts=None, timeout=OUTAGE, wait_initial=0.1, wait_max=1.0).on(
    _UNHEARD
)

# Analyses run for seconds; they must never keep a claim or an event waiting for a thread.
_ANALYSES = ThreadPoolExecutor(max_workers=2, thread_name_prefix="analysis")
# Threads of the process that talk to PostgreSQL; more would only queue for a connection of the pool.
_THREADS = ThreadPoolExecutor(max_workers=8, thread_name_prefix="database")
_REQUESTS = ThreadPoolExecutor(max_workers=12, thread_name_prefix="request")
_used = threading.local()


async def in_database(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` on a database thread, which keeps its connection for the next one.

    Asgiref's default would send every socket of the process through one thread, so that one slow query froze all.
    """
    return await _on_thread(_THREADS, partial(_with_kept_connection, work, *args, **kwargs))


async def in_request(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As `in_database`, for a whole HTTP request: a slow page must not keep a socket's events waiting for a thread."""
    return await _on_thread(_REQUESTS, partial(_with_kept_connection, work, *args, **kwargs))


async def through_outage(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As `in_database`, again and again while PostgreSQL is away for a moment: what is in hand shall not be lost.

    `work` may be done twice, because nobody knows whether a commit that was cut off has happened.

    Raises:
        OperationalError, InterfaceError: it is away for longer than OUTAGE.
    """
    try:
        return await in_database(work, *args, **kwargs)
    except _UNHEARD:
        return await _PATIENTLY_ASYNC(partial(in_database, work, *args, **kwargs))


def through_outage_here(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As `through_outage`, on the calling thread."""
    return _PATIENTLY(partial(_with_kept_connection, work, *args, **kwargs))


async def in_analysis(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Like `in_database`, for work that computes for long; at most two at a time in a process."""
    return await _on_thread(_ANALYSES, partial(_with_own_connection, work, *args, **kwargs))


async def _on_thread(threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(threads, context.run, work)


def _with_kept_connection(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """A connection that has just worked is not asked whether it works; one that failed, or idled, goes back."""
    if time.monotonic() - getattr(_used, "at", 0.0) > KEPT_FOR:
        connection.close()
    try:
        return work(*args, **kwargs)
    except BaseException:
        connection.close()
        raise
    finally:
        if connection.errors_occurred:  # also where a handler has turned the error into an answer
            connection.close()
        _used.at = time.monotonic()


def _with_own_connection(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    try:
        return work(*args, **kwargs)
    finally:
        close_old_connections()


def disconnect() -> None:
    """Have every thread that keeps a connection give it back; waits until they have."""
    for threads in (_THREADS, _REQUESTS):
        everybody = threading.Barrier(threads._max_workers)
        for done in [threads.submit(_give_back, everybody) for _ in range(threads._max_workers)]:
            done.result()


def _give_back(everybody: threading.Barrier) -> None:
    connection.close()
    everybody.wait(10)  # else one thread would do the work of all


# --- What can be stored ----------------------------------------------------------------------------------------------

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable(value: Any) -> Any:
    """`value`, which is text or what JSON can say, without what PostgreSQL stores as neither.

    Null characters and halves of surrogate pairs are dropped; numbers that are none become None.
    """
    if isinstance(value, str):
        return _UNSTORABLE.sub("", value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {storable(key): storable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [storable(inner) for inner in value]
    return value
