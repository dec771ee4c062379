"""Near-duplicates among sets: MinHash signatures (Broder 1997) and locality-sensitive hashing in bands.

The hashing only proposes pairs. What is said of a pair is its exact Jaccard similarity.
"""

from __future__ import annotations

import functools
import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from instruct.audit.texts import ngrams

N_HASHES = 128


def shingles(tokens: Sequence[str], size: int = 3) -> frozenset[int]:
    """64-bit hashes of all runs of `size` tokens; of the whole where it is shorter."""
    runs = list(ngrams(tokens, size)) or [tuple(tokens)]
    return frozenset(stable_hash("\x1f".join(run)) for run in runs)


def stable_hash(text: str) -> int:
    """64 bits, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    """Size of the intersection over that of the union; 1 for two empty sets."""
    shared = len(a & b)
    return shared / union if (union := len(a) + len(b) - shared) else 1.0


def signature(members: frozenset[int], n_hashes: int = N_HASHES) -> NDArray[np.uint64]:
    """(n_hashes,): the least member under each of n hash functions. Two sets agree at a place with probability
    `jaccard`."""
    if not members:
        return np.zeros(n_hashes, dtype=np.uint64)
    values = np.fromiter(members, dtype=np.uint64, count=len(members))
    flips, factors = _random_numbers(n_hashes)
    mixed = (values ^ flips) * factors
    mixed ^= mixed >> np.uint64(32)  # the product's low bits depend on few of the value's
    return (mixed * factors).min(axis=1)


@functools.cache
def _random_numbers(n_hashes: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """What tells the hash functions apart, (n_hashes, 1) each; the factors are odd."""
    drawn = np.random.default_rng(0).integers(0, 2**64, size=(2, n_hashes, 1), dtype=np.uint64)
    return drawn[0], drawn[1] | np.uint64(1)


def rows_per_band(threshold: float, n_hashes: int = N_HASHES, miss: float = 1e-3) -> int:
    """The longest bands that still propose a pair of similarity `threshold` but for a chance of `miss`."""
    fitting = [r for r in range(1, n_hashes + 1) if (1 - threshold**r) ** (n_hashes // r) <= miss]
    return max(fitting, default=1)


def near_duplicates(sets: Sequence[frozenset[int]], threshold: float) -> dict[int, tuple[int, float]]:
    """Those sets that are near an earlier one which is not itself in the answer, with that one and the similarity.

    So leaving out what is named leaves no near pair, and keeps for each one left out a set that is like it.
    """
    rows = rows_per_band(threshold)
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    found: dict[int, tuple[int, float]] = {}
    for i, members in enumerate(sets):
        signed = signature(members)
        keys = [(band, signed[band : band + rows].tobytes()) for band in range(0, N_HASHES - rows + 1, rows)]
        candidates = {j for key in keys for j in buckets.get(key, ())}
        best = max(((jaccard(members, sets[j]), -j) for j in candidates), default=(0.0, 0))
        if best[0] >= threshold:
            found[i] = (-best[1], best[0])
        else:
            for key in keys:
                buckets[key].append(i)
    return found
