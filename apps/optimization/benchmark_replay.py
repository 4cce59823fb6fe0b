"""What a replay of prefix caches costs beside the dictionary that everybody would write."""

import gc
import statistics
import time

import numpy as np

from apps.operations.benchmarks import Benchmark, Measured, register, rounds
from apps.optimization.prefix.replay import Stream, replay

BLOCKS = 10_000_000
QUICK_BLOCKS = 1_000_000
PER_CALL = 100  # blocks
DAY = 86_400.0  # seconds
LIFE = 300.0  # seconds since a block was last used
LEAST = 10.0  # times as many blocks per second as the dictionary


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
