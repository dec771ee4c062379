"""The pairs of responses that one judge or several have compared, with what the judges say of each.

J = judges, R = responses of a batch, A = axes, N = pairs. `tree` (R,) holds for each response the index of its prompt,
any integers >= 0. Labels are scores: larger is better; what stands where nothing is labelled does not matter.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from models.masked import masked, ratio


class Labels(NamedTuple):
    """What the judges say of the responses of a batch, on A axes."""

    values: Tensor  # (J, R, A)
    known: Tensor  # (J, R, A) bool
    tree: Tensor  # (R,)

    def pairs(self, axis: int) -> JudgedPairs:
        """The judged pairs on one axis."""
        return judged_pairs(self.values[:, :, axis], self.known[:, :, axis], self.tree)

    def consensus(self) -> Labels:
        """One judge in place of all, whose values are the means of those who know; 0 where nobody does."""
        mean = ratio(masked(self.values, self.known).sum(0), self.known.sum(0))
        return Labels(mean[None], self.known.any(0)[None], self.tree)


class JudgedPairs(NamedTuple):
    """Pairs of one prompt's responses that a judge has seen both of."""

    better: Tensor  # (N,) row of the response with the higher score, on the mean of these judges
    worse: Tensor  # (N,) row of the other
    preferred: Tensor  # (N,) share of these judges who prefer `better`, ties one half
    margin: Tensor  # (N,) 0 or more: by how much it is better, on their mean
    prompt: Tensor  # (N,) index of the pair's prompt

    @property
    def tied(self) -> Tensor:
        """(N,) bool: equally good, as far as the judges together can tell."""
        return self.margin == 0

    def strict(self) -> JudgedPairs:
        """Those with a better response."""
        return JudgedPairs(*(column[self.margin > 0] for column in self))

    def weights(self) -> Tensor:
        """(N,) 1 over the pairs of the same prompt: with them prompts weigh alike."""
        return 1.0 / torch.bincount(self.prompt)[self.prompt].to(self.margin)

    def n_prompts(self) -> Tensor:
        """() prompts that have a pair."""
        return (torch.bincount(self.prompt) > 0).sum()


def judged_pairs(labels: Tensor, labelled: Tensor, tree: Tensor) -> JudgedPairs:
    """Every pair of responses to one prompt that a judge has labelled both of. labels, labelled: (J, R)."""
    first, second = torch.nonzero((tree[:, None] == tree[None, :]).triu(1), as_tuple=True)
    both = labelled[:, first] & labelled[:, second]
    compared = both.any(0)
    first, second, both = first[compared], second[compared], both[:, compared]
    n_judges = both.sum(0)
    delta = masked(labels[:, first] - labels[:, second], both)
    margin, share = delta.sum(0) / n_judges, masked(0.5 + 0.5 * delta.sign(), both).sum(0) / n_judges
    turned = margin < 0
    return JudgedPairs(
        torch.where(turned, second, first),
        torch.where(turned, first, second),
        torch.where(turned, 1.0 - share, share),
        margin.abs(),
        tree[first],
    )
