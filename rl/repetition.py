"""Whether responses repeat themselves, and each other. A response is its token ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

Ids = Sequence[int]


def ngrams(ids: Ids, n: int) -> list[tuple[int, ...]]:
    return [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]


def repeated(ids: Ids, n: int = 4) -> float:
    """Share of the n-grams of one response that stood in it before (Welleck et al. 2020); 0 where it is shorter."""
    found = ngrams(ids, n)
    return 1 - len(set(found)) / len(found) if found else 0.0


def distinct(responses: Sequence[Ids], n: int = 2) -> float:
    """Share of different n-grams among those of all responses (Li et al. 2016); 0 where there are none."""
    found = [gram for ids in responses for gram in ngrams(ids, n)]
    return len(set(found)) / len(found) if found else 0.0


def most_common(responses: Sequence[Ids]) -> float:
    """Share of the responses that are the one given most often; 1 where all are the same."""
    return max(Counter(map(tuple, responses)).values()) / len(responses)
