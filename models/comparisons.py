"""What a ranking of several responses says: its strict pairs, its order, and how likely scores make that order.

R = responses of a batch, P = prompts, K = responses of a prompt, N = pairs. `tree` (R,) holds for each response the
index of its prompt, any integers >= 0. Labels may be ranks turned around or scores: larger is better.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from models.errors import DataError


class StrictPairs(NamedTuple):
    """All pairs of one batch in which one response is strictly better than a sibling."""

    better: Tensor  # (N,) row of the better response
    worse: Tensor  # (N,) row of the worse one
    n_of_prompt: Tensor  # (N,) how many strict pairs the pair's prompt has; dividing by it lets prompts weigh alike
    n_prompts: Tensor  # () prompts that have at least one strict pair


def strict_pairs(labels: Tensor, labelled: Tensor, tree: Tensor) -> StrictPairs:
    """The pairs (i, j) of the same prompt, both labelled, with labels[i] > labels[j]. Ties make no pair.

    labels (R,), labelled (R,) bool (what stands in `labels` elsewhere does not matter), tree (R,) integers >= 0.
    """
    comparable = (tree[:, None] == tree[None, :]) & labelled[:, None] & labelled[None, :]
    better, worse = torch.nonzero(comparable & (labels[:, None] > labels[None, :]), as_tuple=True)
    pairs_of_prompt = torch.bincount(tree[better])
    return StrictPairs(better, worse, pairs_of_prompt[tree[better]], (pairs_of_prompt > 0).sum())


class Ranked(NamedTuple):
    """Rows of each prompt from best to worst, padded on the right."""

    rows: Tensor  # (P, K) indices into the batch, 0 where padded
    keep: Tensor  # (P, K) bool


def ranked(labels: Tensor, labelled: Tensor, tree: Tensor) -> Ranked:
    """Sorts the labelled responses of every prompt that has at least two. Arguments as in `strict_pairs`.

    Raises DataError on a tie: an order with ties has no exact likelihood of this form, use the pairwise loss.
    """
    orders = []
    for prompt in tree.unique().tolist():
        rows = torch.nonzero((tree == prompt) & labelled).flatten()
        values, place = labels[rows].sort(descending=True)
        if (values[1:] == values[:-1]).any():
            raise DataError(f"prompt {prompt} of the batch: two responses share a rank; use a pairwise loss for ties")
        if len(rows) > 1:
            orders.append(rows[place])
    if not orders:
        return Ranked(tree.new_zeros((0, 0)), labelled.new_zeros((0, 0)))
    padded = torch.nn.utils.rnn.pad_sequence(orders, batch_first=True)
    lengths = torch.tensor([len(order) for order in orders], device=tree.device)
    return Ranked(padded, torch.arange(padded.shape[1], device=tree.device) < lengths[:, None])


def plackett_luce_nll(ordered: Tensor, keep: Tensor | None = None, *, top: int | None = None) -> Tensor:
    """-log P(order) under Plackett-Luce: sum over places i of logsumexp(s_i..s_K) - s_i.

    ordered: (..., K) scores from best to worst.  keep: (..., K) bool, true on real entries, padding on the right.
    top: only the first `top` places count.  Returns (...). K = 2 is Bradley-Terry, equal scores give ln K!.
    """
    n = ordered.shape[-1]
    keep = torch.ones_like(ordered, dtype=torch.bool) if keep is None else keep
    place = torch.arange(n, device=ordered.device)
    # The diagonal stays in, so that a padded place has a finite logsumexp and a gradient of 0 instead of NaN.
    remaining = (place[None, :] > place[:, None]) & keep[..., None, :] | torch.eye(n, dtype=torch.bool).to(place.device)
    candidates = ordered[..., None, :].expand(*ordered.shape, n).masked_fill(remaining.logical_not(), -torch.inf)
    terms = candidates.logsumexp(-1) - ordered
    counted = keep if top is None else keep & (place < top)
    return torch.where(counted, terms, terms.new_zeros(())).sum(-1)
