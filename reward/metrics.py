"""What a reward model gets right: pairs, rankings, best-of-n, ensembles.

B = pairs, K = responses of a prompt, N = samples, M = members of an ensemble. Plain statistics, no gradients.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from models.errors import DataError


class PairAccuracy(NamedTuple):
    """Share of pairs whose better response scores higher; a constant model has accuracy 0.5 and strict 0."""

    accuracy: float  # a tie counts 0.5
    strict: float  # a tie counts 0
    tie_rate: float
    margin: float  # mean of delta
    n: int


def pair_accuracy(delta: Tensor) -> PairAccuracy:
    """delta: (B,) score of the better response less that of the worse. Raises DataError without pairs."""
    if delta.numel() == 0:
        raise DataError("accuracy of 0 pairs")
    strict, ties = float((delta > 0).double().mean()), float((delta == 0).double().mean())
    return PairAccuracy(strict + 0.5 * ties, strict, ties, float(delta.double().mean()), delta.numel())


def kendall_tau(scores: Tensor, gold: Tensor) -> float | None:
    """Kendall's tau-b of two score lists (K,): 1 same order, -1 reversed. None where either list is constant."""
    row, column = torch.triu_indices(len(scores), len(scores), offset=1)
    ours, theirs = (scores[row] - scores[column]).double().sign(), (gold[row] - gold[column]).double().sign()
    norm = float(ours.abs().sum() * theirs.abs().sum()) ** 0.5
    return float((ours * theirs).sum()) / norm if norm else None


def top1(scores: Tensor, gold: Tensor) -> float:
    """Chance that the highest-scored response (one of them at random, if tied) is among the best by gold, (K,)."""
    picked = scores == scores.max()
    return float((picked & (gold == gold.max())).sum() / picked.sum())


class BestOfN(NamedTuple):
    """What picking the best of n samples by proxy gives."""

    proxy: float
    gold: float
    kl: float  # nats from the sampling policy, ln n - (n - 1) / n


def best_of_n(proxy: Tensor, gold: Tensor, *, n: int) -> BestOfN:
    """Unbiased estimate over all subsets of size n of the N samples, (N,) each; tied proxies are picked at random.

    The sample at place j (0-based, ascending) is the best of C(j, n - 1) of the C(N, n) subsets.
    """
    total = len(proxy)
    if not 1 <= n <= total:
        raise DataError(f"best of n needs 1 <= n <= {total} samples, got n = {n}")
    subsets = math.comb(total, n)
    weights = proxy.new_tensor([math.comb(j, n - 1) / subsets for j in range(total)], dtype=torch.float64)
    ordered, place = proxy.double().sort()
    _, group, size = ordered.unique_consecutive(return_inverse=True, return_counts=True)
    shared = weights.new_zeros(len(size)).index_add(0, group, weights) / size
    weights = shared[group]
    kl = math.log(n) - (n - 1) / n
    return BestOfN(float((weights * ordered).sum()), float((weights * gold.double()[place]).sum()), kl)


class Ensemble(NamedTuple):
    """Ways to read several reward models as one, (N,) each."""

    mean: Tensor
    worst: Tensor
    cautious: Tensor  # mean - coefficient * variance
    lower_bound: Tensor  # mean - coefficient * std
    std: Tensor  # how much the members disagree


def ensemble(rewards: Tensor, *, uncertainty_coef: float) -> Ensemble:
    """rewards: (M, N), one row a member. The variance is the population's (Coste et al. 2023)."""
    mean, variance = rewards.mean(0), rewards.var(0, unbiased=False)
    std = variance.sqrt()
    return Ensemble(mean, rewards.amin(0), mean - uncertainty_coef * variance, mean - uncertainty_coef * std, std)


def correlation(x: Tensor, y: Tensor) -> float | None:
    """Pearson's correlation of two lists, None where either is constant (or has fewer than 2 entries)."""
    x, y = x.double() - x.double().mean(), y.double() - y.double().mean()
    norm = float(x.square().sum() * y.square().sum()) ** 0.5
    return float((x * y).sum()) / norm if norm > 0 else None
