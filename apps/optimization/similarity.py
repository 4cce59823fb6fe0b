"""How alike texts are: unit vectors whose products are 1 for the same text and about 0 for texts without a common word.

Made from what is written (words, pairs of words, runs of four characters), so that the same texts always give the same
vectors and nothing has to be downloaded; with the extra `requirements-embeddings.txt`, from what the words mean.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]  # (texts, dimensions), rows of length 1, or 0 where a text says nothing of its own
DIMENSIONS = 512
_BUCKETS = 1 << 18  # in which features are counted
_RUN = np.array([1_000_003**power % 2**32 for power in range(3, -1, -1)], dtype=np.uint64)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / the golden ratio (Knuth, TAOCP 3, 6.4): spreads neighbours apart


def vectors(texts: Sequence[str]) -> tuple[Vectors, str]:
    """The vectors of `texts`, and what they are made from: "meaning" where the extra is installed, else "wording"."""
    if find_spec("wordllama") is None:
        return wording(texts), "wording"
    return _meaning(texts), "meaning"


def wording(texts: Sequence[str], dimensions: int = DIMENSIONS) -> Vectors:
    """Hashed features, each weighed by (1 + ln n) ln((1 + N) / (1 + N_f)): n times in the text, in N_f of N texts.

    What all texts share, such as common instructions, so weighs nothing. Features fall into `dimensions` with a random
    sign, which leaves products right on average, with an error of about 1 / sqrt(dimensions) (Weinberger et al. 2009,
    feature hashing; Salton and Buckley 1988, the weights).
    """
    counted = [np.unique(_features(text), return_counts=True) for text in texts]
    seen_in = np.zeros(_BUCKETS, np.int64)
    for features, _ in counted:
        seen_in[features] += 1
    weight = np.log((1 + len(texts)) / (1 + seen_in))
    mixed = (np.arange(1, _BUCKETS + 1, dtype=np.uint64)) * _SPREAD
    weight *= np.where(mixed >> np.uint64(63), 1.0, -1.0)
    place = (mixed >> np.uint64(32)).astype(np.int64) % dimensions
    found = np.zeros((len(texts), dimensions), np.float32)
    for row, (features, counts) in enumerate(counted):
        weights = (1 + np.log(counts)) * weight[features]
        found[row] = np.bincount(place[features], weights=weights, minlength=dimensions)
    return _unit(found)


def _features(text: str) -> NDArray[np.int32]:
    """The buckets of a text's words, pairs of words and runs of four characters, each as often as it is there."""
    words = text.casefold().split()
    named = [*words, *(f"{one} {other}" for one, other in pairwise(words))]
    found = [np.fromiter((crc32(name.encode()) for name in named), np.uint64, len(named))]
    characters = np.frombuffer(" ".join(["", *words, ""]).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    if len(characters) >= len(_RUN):
        found.append(np.lib.stride_tricks.sliding_window_view(characters, len(_RUN)) @ _RUN)
    mixed = np.concatenate(found) * _SPREAD
    return (mixed >> np.uint64(64 - 18)).astype(np.int32)


def _meaning(texts: Sequence[str]) -> Vectors:
    """Static word embeddings that come with the package; nothing is fetched."""
    import wordllama

    # It looks for its tokenizer where it would have put one that it fetched, so it is told that this is its own folder.
    model: Any = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
    return _unit(np.asarray(model.embed(list(texts)), dtype=np.float32))


def _unit(found: Vectors) -> Vectors:
    length = np.linalg.norm(found, axis=1, keepdims=True)
    unit: Vectors = np.divide(found, length, out=np.zeros_like(found), where=length > 0)
    return unit
