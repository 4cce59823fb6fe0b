"""The one way from an event loop to the ORM."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from channels.db import DatabaseSyncToAsync

P = ParamSpec("P")
T = TypeVar("T")

# Threads of the process that talk to PostgreSQL; more would only queue for a connection of the pool.
_THREADS = ThreadPoolExecutor(max_workers=8, thread_name_prefix="database")


async def in_database(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` on a database thread and return its connection afterwards.

    Asgiref's default would send every socket of the process through one thread, so that one slow query froze all.
    """
    return await DatabaseSyncToAsync(work, thread_sensitive=False, executor=_THREADS)(*args, **kwargs)  # type: ignore[no-any-return]
