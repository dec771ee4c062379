"""Whether reward models order labelled responses as the labels do, together and one by one, and how much they disagree.

M = members of an ensemble, R = responses of all rankings, A = axes, P = strict pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.comparisons import strict_pairs
from models.scorer import AXES
from reward.rankings import AxisScores


@dataclass(frozen=True)
class PairMargins:
    """Score of the better response less that of the worse, for every strict pair of one axis."""

    members: Tensor  # (M, P)
    combined: Tensor  # (P,)
    row: Tensor  # (P,) which ranking the pair belongs to

    @property
    def wrong(self) -> Tensor:
        """(P,) whether the ensemble does not prefer the better response."""
        return self.combined <= 0

    @property
    def doubts(self) -> dict[str, Tensor]:
        """Reasons to expect that a pair is wrong, none of which knows its label, (P,) each; larger is more doubtful.

        spread: standard deviation of the margin over members. It grows with the margin: members that are all sure
        differ in how sure. disagreement: the same against the size of the mean margin, as a t statistic has it,
        spread / (spread + |mean|). closeness: the size of the mean margin alone, turned around; what a member's own
        confidence would say.
        """
        spread, size = self.members.std(0, unbiased=False), self.members.mean(0).abs()
        disagreement = torch.where(spread + size > 0, spread / (spread + size), torch.ones_like(spread))
        return {"disagreement": disagreement, "spread": spread, "closeness": -size}


def pair_margins(each: Tensor, combined: Tensor, labels: Sequence[Sequence[AxisScores]]) -> dict[str, PairMargins]:
    """Of each axis with a strict pair. each: (M, R, A), combined: (R, A), labels: of the responses of each ranking."""
    found: dict[str, PairMargins] = {}
    for k, axis in enumerate(AXES):
        pairs = [_pairs([scores[k] for scores in ranking]) for ranking in labels]
        first = torch.tensor([0, *(len(ranking) for ranking in labels)]).cumsum(0)
        better, worse = (
            torch.cat([own[side] + int(start) for own, start in zip(pairs, first[:-1], strict=True)]) for side in (0, 1)
        )
        if len(better):
            row = torch.cat([torch.full((len(own[0]),), i) for i, own in enumerate(pairs)])
            margins = each[:, better, k] - each[:, worse, k]
            found[axis] = PairMargins(margins, combined[better, k] - combined[worse, k], row)
    return found


def _pairs(judged: Sequence[float | None]) -> tuple[Tensor, Tensor]:
    """Places of the better and of the worse response of every strict pair of one ranking."""
    labels = torch.tensor([0.0 if label is None else label for label in judged], dtype=torch.float64)
    labelled = torch.tensor([label is not None for label in judged])
    found = strict_pairs(labels, labelled, torch.zeros(len(labels), dtype=torch.long))
    return found.better, found.worse
