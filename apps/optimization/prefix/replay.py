"""The replay itself: one pass over blocks in time order, compiled.

A block is named by all that stands before it too (a chained hash), so that the longest run of live blocks from the
start of a prompt is what a prefix cache would have read. Isolation (by model, by key) is for the caller: blocks of
different caches have different names.
"""

from collections.abc import Callable
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
# What is known of a block, side by side in memory: the call that used it last (-1: none, or it was evicted since), and
# the one of its writers that answered first.
_BLOCK = np.dtype([("name", np.uint64), ("used", np.int32), ("writer", np.int32)])
_LINK = np.dtype([("older", np.int32), ("newer", np.int32)])  # its neighbours in the order of last use
_MOST = 2**31 - 2  # calls and blocks of one stream, which are numbered in 32 bits


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
        if self.names.dtype != np.uint64 or max(len(self.names), len(self.at)) > _MOST:
            raise ValueError(f"Blocks have names of 64 bits without a sign; they and calls are {_MOST:,} at most.")
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
    Linear in the number of blocks; takes 16 bytes for each distinct one (24 with a capacity), and 6 to 12
    for each of all.

    Raises:
        ValueError: `ttl` is negative or `capacity` below one block.
    """
    if ttl < 0 or (capacity is not None and capacity < 1):
        raise ValueError("A cache holds blocks for 0 seconds or more, and at least one of them.")
    count = len(stream.names)
    read, tokens = compiled(_loop)(
        stream.at,
        stream.usable_at,
        stream.start,
        stream.names,
        stream.tokens,
        ttl,
        0 if capacity is None else capacity,
        # NumPy asks for huge pages, which numba does not, and what is not touched takes no memory.
        np.empty(count + 1, _BLOCK),
        np.empty(1 if capacity is None else count + 1, _LINK),
        np.zeros(1 << (count + count // 2).bit_length(), np.int32),
    )
    return Hits(blocks=read, tokens=tokens)


@cache
def compiled(loop: Callable[..., Any]) -> Any:
    """A loop as machine code. The compiler is loaded only where something is replayed: it costs a second and 60 MiB.

    numba keeps it for the next process: beside the loop's file, as Python its own, else in the user's cache.
    """
    from numba import njit

    made = njit(loop)
    with suppress(RuntimeError):  # neither can be written: then each process compiles for itself
        made.enable_caching()
    return made


def _loop(
    at: Floats,
    usable_at: Floats,
    start: Integers,
    names: Names,
    tokens: Integers,
    ttl: float,
    capacity: int,  # 0: no bound
    blocks: NDArray[Any],  # by number, from 1
    links: NDArray[Any],  # by number; 0 is where the ends of the list meet
    places: NDArray[np.int32],  # a hash table with linear probing: the number of the block, 0 where none is
) -> tuple[Integers, Integers]:
    calls = len(at)
    read, read_tokens = np.zeros(calls, np.int64), np.zeros(calls, np.int64)
    mask = np.uint64(len(places) - 1)
    longest = 0
    for call in range(calls):
        longest = max(longest, start[call + 1] - start[call])
    place_of, near = np.empty(longest, np.uint64), np.empty(longest, np.int32)
    links[0].older = links[0].newer = 0
    known = held = number = 0
    for call in range(calls):
        now, usable, reading = at[call], usable_at[call], True
        first, many = start[call], start[call + 1] - start[call]
        # The memory is asked for all places of a call at once, so that they are near when their turn comes.
        for nth in range(many):
            name = names[first + nth]
            # The finalizer of splitmix64: names may be small numbers.
            mixed = (name ^ (name >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            place = (mixed ^ (mixed >> np.uint64(31))) & mask
            place_of[nth], near[nth] = place, places[place]
        for nth in range(many):
            name = names[first + nth]
            # What follows a block in one prompt mostly follows it in the next one too, and was numbered next.
            number += 1
            if number > known or blocks[number].name != name:
                place = place_of[nth]
                number = int(places[place])
                while number and blocks[number].name != name:
                    place = (place + np.uint64(1)) & mask
                    number = int(places[place])
                if not number:
                    known += 1
                    number = known
                    places[place] = number
                    blocks[number].name, blocks[number].used = name, -1
            block = blocks[number]
            inside = block.used >= 0
            if inside and now - at[block.used] <= ttl:
                reading = reading and usable_at[block.writer] <= now
                if usable < usable_at[block.writer]:  # one that wrote it again, before the first had answered
                    block.writer = call
            else:
                reading = False
                block.writer = call
            if reading:
                read[call] += 1
                read_tokens[call] += tokens[first + nth]
            block.used = call
            if capacity:
                link = links[number]
                if inside:
                    links[link.newer].older, links[link.older].newer = link.older, link.newer
                else:
                    held += 1
                newest = links[0].older
                link.older, link.newer = newest, 0
                links[newest].newer = links[0].older = number
                if held > capacity:
                    oldest = links[0].newer
                    links[0].newer = links[oldest].newer
                    links[links[oldest].newer].older = 0
                    blocks[oldest].used = -1
                    held -= 1
    return read, read_tokens
