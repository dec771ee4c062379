"""Claims about near-duplicates: what is said of a pair is exact, nothing near is left, signatures estimate Jaccard."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct.audit.minhash import N_HASHES, jaccard, near_duplicates, rows_per_band, shingles, signature

SETS = st.lists(st.frozensets(st.integers(0, 30), min_size=1), max_size=25)


def exact(a: frozenset[int], b: frozenset[int]) -> float:
    return len(a & b) / len(a | b)


def overlapping(random_numbers: random.Random, n_shared: int, n_own: int) -> tuple[frozenset[int], frozenset[int]]:
    """Two sets of random members with Jaccard similarity n_shared / (n_shared + 2 n_own)."""
    drawn = [random_numbers.getrandbits(64) for _ in range(n_shared + 2 * n_own)]
    shared = drawn[:n_shared]
    return frozenset(shared + drawn[n_shared : n_shared + n_own]), frozenset(shared + drawn[n_shared + n_own :])


@given(sets=SETS, threshold=st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_every_near_duplicate_names_an_earlier_kept_set_with_its_exact_similarity(
    sets: list[frozenset[int]], threshold: float
) -> None:
    found = near_duplicates(sets, threshold)
    for i, (j, similarity) in found.items():
        assert j < i and j not in found
        assert similarity == exact(sets[i], sets[j]) >= threshold


@given(sets=SETS)
def test_equal_sets_are_always_found(sets: list[frozenset[int]]) -> None:
    found = near_duplicates([*sets, *sets], 0.9)
    kept = {i for i in range(len(sets)) if i not in found}
    assert all(i in found for i in range(len(sets), 2 * len(sets)))
    assert len({sets[i] for i in kept}) == len(kept)


def test_hardly_a_pair_at_the_threshold_is_missed_and_none_below_is_named() -> None:
    drawn = random.Random(1)
    at = [overlapping(drawn, 80, 10) for _ in range(400)]  # 0.8
    below = [overlapping(drawn, 78, 11) for _ in range(400)]  # 0.78
    assert sum(len(near_duplicates(pair, 0.8)) for pair in at) >= 398  # a chance of 0.001 each to be missed
    assert not any(near_duplicates(pair, 0.8) for pair in below)


@given(n_shared=st.integers(0, 40), n_own=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_the_share_of_equal_places_of_two_signatures_estimates_their_similarity(
    n_shared: int, n_own: int, seed: int
) -> None:
    a, b = overlapping(random.Random(seed), n_shared, n_own)
    true = exact(a, b)
    estimate = float((signature(a) == signature(b)).mean())
    assert abs(estimate - true) <= 6 * math.sqrt(max(true * (1 - true), 0.01) / N_HASHES)


def test_the_estimate_has_no_bias() -> None:
    drawn = random.Random(2)
    estimates = [
        float((signature(a) == signature(b)).mean()) for a, b in (overlapping(drawn, 30, 35) for _ in range(400))
    ]
    error = math.sqrt(0.3 * 0.7 / N_HASHES / 400)
    assert sum(estimates) / 400 == pytest.approx(0.3, abs=4 * error)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8, 0.95])
def test_bands_are_the_longest_that_miss_one_pair_in_a_thousand(threshold: float) -> None:
    rows = rows_per_band(threshold)
    missed = [(1 - threshold**r) ** (N_HASHES // r) for r in (rows, rows + 1)]
    assert missed[0] <= 1e-3 < missed[1] or rows == 1


def test_shingles_are_runs_of_three_and_the_whole_of_a_short_text() -> None:
    a, b = shingles("a b c d e f".split()), shingles("a b c d e x".split())
    assert len(a) == 4 and jaccard(a, b) == 3 / 5
    assert len(shingles(["a"])) == 1 and shingles(["a"]) != shingles(["b"])
    assert jaccard(shingles([]), shingles([])) == 1.0
