"""Clusters of instructions: hashed TF-IDF of words and word pairs, spherical k-means (Dhillon and Modha 2001)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from instruct.audit.minhash import stable_hash
from instruct.audit.texts import joined, ngrams
from instruct.language import FREQUENT_WORDS

DIMENSIONS = 1024
MOST_CLUSTERS = 60
N_ROUNDS = 30
N_WORDS = 4  # that describe a cluster
COMMON = FREQUENT_WORDS["en"].union(
    "a an in at so one has have had do does did can will there also only me given".split()
)


@dataclass(frozen=True)
class Cluster:
    """Instructions that are alike: indices, the nearest to the centre first, and what sets their words apart."""

    members: list[int]
    words: list[str]


def clusters(texts: Sequence[Sequence[str]], seed: int = 0) -> list[Cluster]:
    """Clusters of texts given as words, the largest first; about √(n/2) of them."""
    terms = [_terms(words) for words in texts]
    rarity = _rarity(terms)
    vectors = _vectors(terms, rarity)
    n_clusters = min(MOST_CLUSTERS, max(1, round(math.sqrt(len(texts) / 2))))
    labels, closeness = _spherical_k_means(vectors, n_clusters, np.random.default_rng(seed))
    found = []
    for label in range(n_clusters):
        members = [int(i) for i in np.flatnonzero(labels == label)]
        if members:
            members.sort(key=lambda i: (-closeness[i], i))
            found.append(Cluster(members, _distinctive([terms[i] for i in members], rarity)))
    return sorted(found, key=lambda cluster: (-len(cluster.members), cluster.members[0]))


def effective_number(sizes: Sequence[int]) -> float:
    """How many equally large clusters are as diverse as these: the exponential of their entropy."""
    total = sum(sizes)
    return math.exp(-sum(n / total * math.log(n / total) for n in sizes if n))


def _terms(words: Sequence[str]) -> Counter[str]:
    """Words and pairs of neighbours. In text without spaces a pair is what most words are."""
    return Counter([*words, *(joined(pair) for pair in ngrams(words, 2))])


def _rarity(terms: Sequence[Counter[str]]) -> dict[str, float]:
    """Inverse document frequency of every term."""
    counts = Counter(term for found in terms for term in found)
    return {term: math.log((1 + len(terms)) / (1 + n)) for term, n in counts.items()}


def _vectors(terms: Sequence[Counter[str]], rarity: dict[str, float]) -> NDArray[np.float32]:
    """(n, DIMENSIONS), rows of length 1 (or 0): sublinear TF-IDF, each term at a hashed place with a hashed sign."""
    place = {term: divmod(stable_hash(term), 2) for term in rarity}
    vectors = np.zeros((len(terms), DIMENSIONS), dtype=np.float32)
    for i, found in enumerate(terms):
        for term, count in found.items():
            where, sign = place[term]
            vectors[i, where % DIMENSIONS] += (2 * sign - 1) * (1 + math.log(count)) * rarity[term]
    return _unit(vectors)


def _spherical_k_means(
    vectors: NDArray[np.float32], k: int, random: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """(cluster, cosine to its centre) of each row; centres start as k-means++ chooses them."""
    centres = vectors[[random.integers(len(vectors))]]
    while len(centres) < k:
        far = np.clip(1 - (vectors @ centres.T).max(axis=1), 0, None).astype(np.float64) + 1e-9
        centres = np.concatenate([centres, vectors[[random.choice(len(vectors), p=far / far.sum())]]])
    labels = np.full(len(vectors), -1)
    for _ in range(N_ROUNDS):
        before, labels = labels, (vectors @ centres.T).argmax(axis=1)
        if (labels == before).all():
            break
        sums = np.eye(k, dtype=np.float32)[labels].T @ vectors
        emptied = ~sums.any(axis=1)
        centres = np.where(emptied[:, None], centres, _unit(sums))
    return labels, (vectors @ centres.T)[np.arange(len(vectors)), labels]


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _distinctive(terms: Sequence[Counter[str]], rarity: dict[str, float]) -> list[str]:
    """The terms that are frequent here and rare elsewhere; none that is part of one named before."""
    counts = Counter(term for found in terms for term in found if len(term) > 1)
    ranked = sorted(counts, key=lambda term: (not COMMON.isdisjoint(term.split()), -counts[term] * rarity[term], term))
    chosen: list[str] = []
    for term in ranked:
        if not any(term in other or other in term for other in chosen):
            chosen.append(term)
        if len(chosen) == N_WORDS:
            break
    return chosen
