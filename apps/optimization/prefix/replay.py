"""The replay itself: one pass over blocks in time order, compiled.

A block is named by all that stands before it too (a chained hash), so that the longest run of live blocks from the
start of a prompt is what a prefix cache would have read. Isolation (by model, by key) is for the caller: blocks of
different caches have different names.
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Names = NDArray[np.uint64]
FOREVER = float("inf")
# What is known of a block, side by side in memory; `older` and `newer` are its neighbours in the order of last use.
_BLOCK = np.dtype(
    [("name", np.uint64), ("used", np.float64), ("readable", np.float64), ("older", np.int32), ("newer", np.int32)]
)
_MOST = 2**31 - 2  # blocks of one stream, which are numbered in 32 bits


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Calls in time order with their blocks. `names[start[c]:start[c + 1]]` are those of call c."""

    at: Floats  # seconds; rises; (calls,)
    usable_at: Floats  # when what the call wrote can be read: its first token, else its end, else its start; (calls,)
    start: Integers  # (calls + 1,)
    names: Names  # (blocks,)
    tokens: Integers  # of each block; (blocks,)

    def __post_init__(self) -> None:
        if len(self.start) != len(self.at) + 1 or len(self.usable_at) != len(self.at):
            raise ValueError("A stream has a start more than it has calls, and two times for each.")
        if len(self.names) != len(self.tokens) or (len(self.start) and self.start[-1] != len(self.names)):
            raise ValueError("The starts must cover all blocks, each of which has its tokens.")
        if self.names.dtype != np.uint64 or len(self.names) > _MOST:
            raise ValueError(f"Blocks have names of 64 bits without a sign, and are {_MOST:,} at most.")
        if np.any(np.diff(self.at) < 0):
            raise ValueError("Calls must be in the order of their times.")


@dataclass(frozen=True, kw_only=True)
class Hits:
    """What each call would have read from the cache."""

    blocks: Integers  # (calls,)
    tokens: Integers  # (calls,)


def replay(stream: Stream, *, ttl: float = FOREVER, capacity: int | None = None) -> Hits:
    """The longest live prefix of each call.

    A block lives for `ttl` seconds after it was last used, and as long as it is among the `capacity` blocks that were
    used last (LRU). It can be read from when the first of the calls that wrote it in this life began to answer.
    Linear in the number of blocks; takes 32 bytes for each distinct one, and 6 to 12 for each of all.

    Raises:
        ValueError: `ttl` is negative or `capacity` below one block.
    """
    if ttl < 0 or (capacity is not None and capacity < 1):
        raise ValueError("A cache holds blocks for 0 seconds or more, and at least one of them.")
    count = len(stream.names)
    read, tokens = _compiled()(
        stream.at,
        stream.usable_at,
        stream.start,
        stream.names,
        stream.tokens,
        ttl,
        0 if capacity is None else capacity,
        # NumPy asks for huge pages, which numba does not, and what is not touched takes no memory.
        np.empty(count + 1, _BLOCK),
        np.zeros(1 << (count + count // 2).bit_length(), np.int32),
    )
    return Hits(blocks=read, tokens=tokens)


@cache
def _compiled() -> Any:
    """The loop as machine code. Loaded only where something is replayed: it costs a second and 60 MiB.

    numba keeps it for the next process: beside this file, as Python its own, else in the user's cache.
    """
    from numba import njit

    compiled = njit(_loop)
    with suppress(RuntimeError):  # neither can be written: then each process compiles for itself
        compiled.enable_caching()
    return compiled


def _loop(
    at: Floats,
    usable_at: Floats,
    start: Integers,
    names: Names,
    tokens: Integers,
    ttl: float,
    capacity: int,  # 0: no bound
    blocks: NDArray[Any],  # by number, from 1; 0 is where the ends of the list of uses meet
    places: NDArray[np.int32],  # a hash table with linear probing: the number of the block, 0 where none is
) -> tuple[Integers, Integers]:
    calls = len(at)
    read, read_tokens = np.zeros(calls, np.int64), np.zeros(calls, np.int64)
    mask = np.uint64(len(places) - 1)
    blocks[0].older = blocks[0].newer = 0
    known = held = number = 0
    for call in range(calls):
        now, usable, reading = at[call], usable_at[call], True
        for position in range(start[call], start[call + 1]):
            name = names[position]
            # What follows a block in one prompt mostly follows it in the next one too, and was numbered next.
            number += 1
            if number > known or blocks[number].name != name:
                # The finalizer of splitmix64: names may be small numbers.
                mixed = (name ^ (name >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                place = (mixed ^ (mixed >> np.uint64(31))) & mask
                number = int(places[place])
                while number and blocks[number].name != name:
                    place = (place + np.uint64(1)) & mask
                    number = int(places[place])
                if not number:
                    known += 1
                    number = known
                    places[place] = number
                    blocks[number].name, blocks[number].used = name, np.nan
            block = blocks[number]
            inside = not np.isnan(block.used)
            if now - block.used <= ttl:  # not where `used` is no number
                reading = reading and block.readable <= now
                # It may be written again while its first writer has not answered.
                block.readable = min(block.readable, usable)
            else:
                reading = False
                block.readable = usable
            if reading:
                read[call] += 1
                read_tokens[call] += tokens[position]
            block.used = now
            if capacity:
                if inside:
                    blocks[block.newer].older, blocks[block.older].newer = block.older, block.newer
                else:
                    held += 1
                newest = blocks[0].older
                block.older, block.newer = newest, 0
                blocks[newest].newer = blocks[0].older = number
                if held > capacity:
                    oldest = blocks[0].newer
                    blocks[0].newer = blocks[oldest].newer
                    blocks[blocks[oldest].newer].older = 0
                    blocks[oldest].used = np.nan
                    held -= 1
    return read, read_tokens
