"""The replay itself: one pass over blocks in time order, compiled.

A block is named by all that stands before it too (a chained hash), so that the longest run of live blocks from the
start of a prompt is what a prefix cache would have read. Isolation (by model, by key) is for the caller: blocks of
different caches have different names.
"""

import os
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
FOREVER = float("inf")


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Calls in time order with their blocks. `blocks[start[c]:start[c + 1]]` are those of call c."""

    at: Floats  # seconds; rises; (calls,)
    usable_at: Floats  # when what the call wrote can be read: its first token, else its end, else its start; (calls,)
    start: Integers  # (calls + 1,)
    blocks: Integers  # 0 .. distinct - 1, see `dense`; (blocks,)
    tokens: Integers  # of each block; (blocks,)
    distinct: int

    def __post_init__(self) -> None:
        if len(self.start) != len(self.at) + 1 or len(self.usable_at) != len(self.at):
            raise ValueError("A stream has a start more than it has calls, and two times for each.")
        if len(self.blocks) != len(self.tokens) or (len(self.start) and self.start[-1] != len(self.blocks)):
            raise ValueError("The starts must cover all blocks, each of which has its tokens.")
        if np.any(np.diff(self.at) < 0):
            raise ValueError("Calls must be in the order of their times.")


@dataclass(frozen=True, kw_only=True)
class Hits:
    """What each call would have read from the cache."""

    blocks: Integers  # (calls,)
    tokens: Integers  # (calls,)


def dense(names: NDArray[Any]) -> tuple[Integers, int]:
    """Names of blocks as numbers from 0, and how many there are."""
    found, numbers = np.unique(names, return_inverse=True)
    return numbers.astype(np.int64), len(found)


def replay(stream: Stream, *, ttl: float = FOREVER, capacity: int | None = None) -> Hits:
    """The longest live prefix of each call.

    A block lives for `ttl` seconds after it was last used, and as long as it is among the `capacity` blocks that were
    used last (LRU); it is usable from when the call that wrote it began to answer. Linear in the number of blocks.

    Raises:
        ValueError: `ttl` is negative or `capacity` below one block.
    """
    if ttl < 0 or (capacity is not None and capacity < 1):
        raise ValueError("A cache holds blocks for 0 seconds or more, and at least one of them.")
    read, tokens = compiled(_loop)(
        stream.at,
        stream.usable_at,
        stream.start,
        stream.blocks,
        stream.tokens,
        stream.distinct,
        ttl,
        stream.distinct if capacity is None else capacity,
    )
    return Hits(blocks=read, tokens=tokens)


@cache
def compiled(loop: Callable[..., Any]) -> Any:
    """A loop as machine code. The compiler is loaded only where something is replayed: it costs a second and 60 MiB."""
    os.environ.setdefault("NUMBA_CACHE_DIR", _own_folder())
    from numba import njit

    return njit(cache=True)(loop)


def _own_folder() -> str:
    """Where compiled code is kept for the next process: a folder that nobody else can have put any into."""
    path = Path(tempfile.gettempdir()) / f"netra-compiled-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
        return str(path)
    return tempfile.mkdtemp(prefix="netra-compiled-")


def _loop(
    at: Floats,
    usable_at: Floats,
    start: Integers,
    blocks: Integers,
    tokens: Integers,
    distinct: int,
    ttl: float,
    capacity: int,
) -> tuple[Integers, Integers]:
    calls = len(at)
    read, read_tokens = np.zeros(calls, np.int64), np.zeros(calls, np.int64)
    used = np.full(distinct, -np.inf)  # when each block was last used
    ready = np.full(distinct, np.inf)  # from when it can be read
    # Blocks in the order of their last use: a list linked both ways, whose ends meet in the extra place.
    older, newer = np.full(distinct + 1, -1, np.int64), np.full(distinct + 1, -1, np.int64)
    older[distinct] = newer[distinct] = distinct
    held = 0
    for call in range(calls):
        now, reading = at[call], True
        for place in range(start[call], start[call + 1]):
            block = blocks[place]
            inside = older[block] != -1
            live = inside and now - used[block] <= ttl
            if reading and live and ready[block] <= now:
                read[call] += 1
                read_tokens[call] += tokens[place]
            else:
                reading = False
            if not live:
                ready[block] = usable_at[call]
            used[block] = now
            if inside:
                older[newer[block]], newer[older[block]] = older[block], newer[block]
            else:
                held += 1
            # To the front of the list.
            newest = older[distinct]
            older[block], newer[block] = newest, distinct
            newer[newest], older[distinct] = block, block
            if held > capacity:
                oldest = newer[distinct]
                newer[distinct] = newer[oldest]
                older[newer[oldest]] = distinct
                older[oldest] = newer[oldest] = -1
                held -= 1
    return read, read_tokens
