"""How good scores are against labels: outcomes per prompt on each axis, and the pair differences for calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.comparisons import strict_pairs
from models.scorer import AXES
from reward.metrics import pair_accuracy
from reward.rankings import Ranking
from reward.sampling import SAMPLED
from reward.training import labels_of


@dataclass(frozen=True)
class AxisOutcome:
    """One axis over several rankings."""

    per_prompt: list[float]  # accuracy over each prompt's strict pairs, ties of scores 0.5
    deltas: Tensor  # (pairs,) score of the better response less that of the worse


def outcomes(
    rankings: Sequence[Ranking], scores: Sequence[Tensor], counts: Callable[[str], bool] = lambda source: True
) -> dict[str, AxisOutcome]:
    """Outcome of each axis that has a strict pair. scores: (K, A) a ranking. `counts` picks responses by source."""
    found: dict[str, AxisOutcome] = {}
    for k, axis in enumerate(AXES):
        per_prompt, deltas = [], []
        for ranking, own in zip(rankings, scores, strict=True):
            labels, labelled = labels_of(ranking)
            usable = labelled[:, k] & torch.tensor([counts(source) for source in ranking.sources])
            pairs = strict_pairs(labels[:, k], usable, torch.zeros(len(labels), dtype=torch.long))
            delta = own[pairs.better, k] - own[pairs.worse, k]
            if len(delta):
                per_prompt.append(pair_accuracy(delta).accuracy)
                deltas.append(delta)
        if per_prompt:
            found[axis] = AxisOutcome(per_prompt, torch.cat(deltas))
    return found


def is_own_sample(source: str) -> bool:
    """Whether the policy itself gave the response: what reinforcement learning will see."""
    return source == SAMPLED
