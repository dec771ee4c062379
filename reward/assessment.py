"""How good scores are against labels, on one axis: every strict pair of the rankings, and what is read from them.

N = pairs, K = responses of a ranking, A = axes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.scorer import AXES
from reward.metrics import kendall_tau, pair_accuracy, top1
from reward.rankings import Ranking, orders
from reward.sampling import SAMPLED
from reward.training import pairs_of

UNTOLD = ("", "chosen", "rejected")  # sources that say nothing beyond the label


class Scored(NamedTuple):
    """A ranking with the model's scores (K, A) and the lengths (K,) of its responses in tokens."""

    ranking: Ranking
    scores: Tensor
    lengths: Tensor


class ScoredPairs(NamedTuple):
    """Pairs of several rankings on one axis, with what the model makes of them, (N,) each."""

    ranking: Tensor  # index of the ranking
    better: Tensor  # place of the response that the labels prefer
    worse: Tensor
    delta: Tensor  # score of the better response less that of the worse
    longer: Tensor  # tokens of the better response less those of the worse
    longest: Tensor  # tokens of the longer of both
    strength: Tensor  # label of the better response less that of the worse
    preferred: Tensor  # share of the judges that prefer the better response

    def where(self, kept: Tensor) -> ScoredPairs:
        return ScoredPairs(*(column[kept] for column in self))

    def by_prompt(self, values: Tensor) -> list[float]:
        """The mean of a pair's value (N,) over each ranking that has a pair."""
        sums = torch.zeros(int(self.ranking.max()) + 1).double().index_add(0, self.ranking, values.double())
        counts = torch.bincount(self.ranking)
        return (sums[counts > 0] / counts[counts > 0]).tolist()

    def right(self) -> Tensor:
        """(N,) 1 where the better response scores higher, one half where both score alike."""
        return 0.5 + 0.5 * self.delta.sign()

    def right_of_judges(self) -> Tensor:
        """(N,) share of the judges that the model's choice agrees with."""
        return self.right() * self.preferred + (1.0 - self.right()) * (1.0 - self.preferred)


def scored_pairs(scored: Sequence[Scored], axis: int, *, ties: bool = False) -> ScoredPairs:
    """All pairs on the axis that have a better response; with `ties`, the others too."""
    parts = []
    for i, (ranking, scores, lengths) in enumerate(scored):
        pairs = pairs_of(ranking, axis) if ties else pairs_of(ranking, axis).strict()
        b, w, lengths = pairs.better, pairs.worse, lengths.float()
        delta, longest = scores[b, axis] - scores[w, axis], torch.maximum(lengths[b], lengths[w])
        parts.append((b * 0 + i, b, w, delta, lengths[b] - lengths[w], longest, pairs.margin, pairs.preferred))
    return ScoredPairs(*map(torch.cat, zip(*parts, strict=True)))


def of_sources(scored: Sequence[Scored], pairs: ScoredPairs, counts: Callable[[str], bool]) -> ScoredPairs:
    """The pairs whose responses both have a source that counts."""
    kept = [counts(s.better) and counts(s.worse) for s in _sources(scored, pairs)]
    return pairs.where(torch.tensor(kept, dtype=torch.bool))


def is_own_sample(source: str) -> bool:
    """Whether the policy itself gave the response: what reinforcement learning will see."""
    return source == SAMPLED


class _Sources(NamedTuple):
    better: str
    worse: str


def _sources(scored: Sequence[Scored], pairs: ScoredPairs) -> Iterator[_Sources]:
    for i, b, w in zip(*(column.tolist() for column in pairs[:3]), strict=True):
        yield _Sources(scored[i].ranking.sources[b], scored[i].ranking.sources[w])


# --- what a report shows ----------------------------------------------------------------------------------------------


def by_strength(pairs: ScoredPairs, n: int = 3) -> list[dict[str, Any]]:
    """Accuracy of up to n groups of pairs, from those that the labels hardly tell apart to those far apart."""
    cuts = torch.quantile(pairs.strength.double(), torch.linspace(0, 1, n + 1).double()[1:-1])
    group = torch.bucketize(pairs.strength.double(), cuts.unique())
    found = []
    for g in group.unique():
        own = pairs.where(group == g)
        span = {"low": float(own.strength.min()), "high": float(own.strength.max())}
        found.append({**span, "accuracy": pair_accuracy(own.delta).accuracy, "pairs": len(own.delta)})
    return found


def by_length(pairs: ScoredPairs) -> dict[str, dict[str, float]]:
    """Accuracy where the better response is shorter, of like length (within a tenth) or longer; of any model that
    always picks the longer response, `longer_wins`."""
    similar = pairs.longer.abs() <= 0.1 * pairs.longest
    kinds = {
        "shorter": similar.logical_not() & (pairs.longer < 0),
        "similar": similar,
        "longer": similar.logical_not() & (pairs.longer > 0),
    }
    found = {
        name: {"accuracy": pair_accuracy(pairs.delta[kind]).accuracy, "pairs": int(kind.sum())}
        for name, kind in kinds.items()
        if kind.any()
    }
    return {**found, "longer_wins": {"accuracy": pair_accuracy(pairs.longer).accuracy, "pairs": len(pairs.longer)}}


def by_source(scored: Sequence[Scored], pairs: ScoredPairs) -> dict[str, dict[str, float]]:
    """Of pairs with one response of a source and one of another: how often its response is the better one, how often
    the model thinks so, and how often the model is right."""
    counted: dict[str, list[tuple[float, float]]] = {}
    for sources, right in zip(_sources(scored, pairs), pairs.right().tolist(), strict=True):
        if sources.better != sources.worse:
            counted.setdefault(sources.better, []).append((1.0, right))
            counted.setdefault(sources.worse, []).append((0.0, right))
    found = {}
    for source, rows in sorted(counted.items()):
        if source not in UNTOLD:
            n, right = len(rows), sum(r for _, r in rows)
            picked = sum(r if better else 1 - r for better, r in rows)
            wins = sum(better for better, _ in rows)
            found[source] = {
                "pairs": n,
                "accuracy": right / n,
                "labelled_better": wins / n,
                "scored_better": picked / n,
            }
    return found


def rank_measures(scored: Sequence[Scored], axis: int) -> dict[str, list[float]]:
    """Kendall's tau and the chance that the highest score is a best response, of each ranking that they exist for."""
    found: dict[str, list[float]] = {"tau": [], "top1": []}
    for ranking, scores, _ in scored:
        labels = [judged[axis] for judged in ranking.scores]
        known = torch.tensor([label is not None for label in labels])
        if orders(labels):
            gold, own = torch.tensor([label for label in labels if label is not None]), scores[known, axis]
            tau = kendall_tau(own, gold)
            found["tau"].append(0.0 if tau is None else tau)  # of a constant score: no order at all
            found["top1"].append(top1(own, gold))
    return found


def axes_agree(scored: Sequence[Scored], axes: Sequence[int]) -> list[dict[str, Any]]:
    """For each two of the axes: how often the predicted winners of two responses are the same one; and, of pairs that
    both axes are labelled on, how often the predicted winners and how often the labelled ones are."""
    predicted, labelled = [], []
    for ranking, scores, _ in scored:
        i, j = torch.triu_indices(len(scores), len(scores), offset=1)
        labels = torch.tensor([[torch.nan if x is None else x for x in judged] for judged in ranking.scores])
        predicted.append((scores[i] - scores[j]).sign())
        labelled.append((labels[i] - labels[j]).sign().nan_to_num(0.0))
    said, known, found = torch.cat(predicted), torch.cat(labelled), []
    for a, b in combinations(axes, 2):
        same, both = said[:, a] == said[:, b], (known[:, a] * known[:, b]) != 0
        row = {"axes": [AXES[a], AXES[b]], "pairs": len(same), "predicted": float(same.float().mean())}
        if both.any():
            labels_same = (known[:, a] == known[:, b])[both]
            row |= {"labelled_pairs": int(both.sum()), "predicted_there": float(same[both].float().mean())}
            row |= {"labelled": float(labels_same.float().mean())}
        found.append(row)
    return found


def worst_mistakes(scored: Sequence[Scored], pairs: ScoredPairs, n: int = 8) -> list[int]:
    """Pairs that the model is most sure of and wrong about, the worst first, at most one of a ranking."""
    found: dict[int, int] = {}
    for place in pairs.delta.argsort(stable=True).tolist():
        if pairs.delta[place] < 0 and len(found) < n:
            found.setdefault(int(pairs.ranking[place]), place)
    return list(found.values())
