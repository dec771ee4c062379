"""Losses that turn rankings into rewards. Pure functions of scores; larger is better on every axis.

B = pairs, J = judges, R = responses of a batch, A = axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.comparisons import plackett_luce_nll, ranked
from models.masked import masked, ratio
from reward.judged_pairs import Labels


def soft_bradley_terry(delta: Tensor, preferred: Tensor | float = 1.0) -> Tensor:
    """Cross-entropy of P(a > b) = sigmoid(delta) against the label, elementwise and without overflow.

    delta: score of a less score of b.  preferred in [0, 1]: probability that a is the better one. 1 is a plain
    label, 1 - e label smoothing, 0.5 a tie, k/n the votes of n annotators.
    """
    return preferred * F.softplus(-delta) + (1.0 - preferred) * F.softplus(delta)


def bradley_terry_loss(
    chosen: Tensor,
    rejected: Tensor,
    *,
    margin: Tensor | None = None,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    center: float = 0.0,
) -> Tensor:
    """Mean of -log sigmoid(chosen - rejected - margin) over pairs.

    chosen, rejected, margin, weight: (B,). The margin is Llama 2's (by strength of the label); weights divide by
    their sum. `center` adds center * mean((chosen + rejected)^2), which fixes the constant that differences leave free.
    """
    delta = chosen - rejected if margin is None else chosen - rejected - margin
    pairs = soft_bradley_terry(delta, 1.0 - label_smoothing)
    weight = torch.ones_like(pairs) if weight is None else weight
    loss = ratio((weight * pairs).sum(), weight.sum())
    return loss + center * ratio((chosen + rejected).square().sum(), chosen.numel())


def combine_axes(sums: Tensor, counts: Tensor, axis_weights: Tensor | None = None) -> Tensor:
    """sum_k w_k * sums_k / counts_k, over sum_k w_k; axes that nobody labelled are in neither sum.

    sums, counts, axis_weights: (A,). Counts are those of the whole optimizer step, so that the results of
    micro-batches and ranks add up to the loss of the step.
    """
    weights = torch.ones_like(sums) if axis_weights is None else axis_weights.to(sums)
    counts = counts.to(sums)
    present = counts > 0
    return ratio((weights * ratio(sums, counts)).sum(), masked(weights, present).sum())


class AxisLoss(NamedTuple):
    """A loss over several axes and the means it is made of."""

    loss: Tensor  # ()
    per_axis: Tensor  # (A,) 0 where an axis has no label


def multi_axis_loss(
    scores_a: Tensor,
    scores_b: Tensor,
    preferred: Tensor,
    labelled: Tensor,
    *,
    axis_weights: Tensor | None = None,
    n_rows_per_axis: Tensor | None = None,
) -> AxisLoss:
    """Bradley-Terry on pairs that are labelled on some axes only.

    scores_a, scores_b: (B, A).  preferred: (B, A), P(a better) in [0, 1].  labelled: (B, A) bool; an unlabelled entry
    gives neither loss nor gradient.  n_rows_per_axis: (A,) labelled rows of the whole optimizer step.
    """
    labelled = labelled.bool()
    targets = masked(preferred, labelled)
    sums = masked(soft_bradley_terry(scores_a - scores_b, targets), labelled).sum(0)
    counts = labelled.sum(0) if n_rows_per_axis is None else n_rows_per_axis
    return AxisLoss(combine_axes(sums, counts, axis_weights), ratio(sums, counts))


Sums = dict[str, Tensor]
"""Per axis, `loss` summed over prompts and `n_prompts` that have one, each (A,) and additive over batches.

The functions below take scores (R, A), larger is better, and what judges say of the responses. The loss of an axis is
`loss / n_prompts`: prompts weigh alike whatever their K.
"""


def kwise_sums(
    scores: Tensor,
    labels: Labels,
    *,
    center: float = 0.0,
    label_smoothing: float = 0.0,
    margin: float = 0.0,
    ties: bool = False,
) -> Sums:
    """InstructGPT's loss: the mean over a prompt's judged pairs of the cross-entropy with the judges' votes.

    margin: how much the scores shall be apart for each unit between the labels (Llama 2). ties: responses that are
    equally good make pairs too, which draw their scores together.
    """
    columns = []
    for axis in range(scores.shape[1]):
        pairs = labels.pairs(axis)
        pairs = pairs if ties else pairs.strict()
        better, worse = scores[pairs.better, axis], scores[pairs.worse, axis]
        preferred = label_smoothing + (1.0 - 2.0 * label_smoothing) * pairs.preferred.to(scores)
        loss = soft_bradley_terry(better - worse - margin * pairs.margin.to(scores), preferred)
        loss = loss + center * (better + worse).square()
        columns.append({"loss": (pairs.weights().to(scores) * loss).sum(), "n_prompts": pairs.n_prompts()})
    return _stacked(columns)


def accuracy_sums(scores: Tensor, labels: Labels) -> Sums:
    """`correct` (ties of scores 0.5), `tied` and `margin`: sums over prompts of the mean over their strict pairs.

    `n_prompts` counts those with a strict pair, `n_pairs` the pairs.
    """
    columns = []
    for axis in range(scores.shape[1]):
        pairs = labels.pairs(axis).strict()
        delta, weight = (scores[pairs.better, axis] - scores[pairs.worse, axis]).detach(), pairs.weights().to(scores)
        columns.append(
            {
                "correct": (weight * (0.5 + 0.5 * delta.sign())).sum(),
                "tied": (weight * (delta == 0)).sum(),
                "margin": (weight * delta).sum(),
                "n_prompts": pairs.n_prompts(),
                "n_pairs": labels.tree.new_tensor(len(pairs.better)),
            }
        )
    return _stacked(columns)


def plackett_luce_sums(scores: Tensor, labels: Labels, *, center: float = 0.0, top: int | None = None) -> Sums:
    """Listwise likelihood of each prompt's whole order (or its first `top` places), divided by the number of places.

    Of several judges the mean scores make the order. `center` as in `kwise_sums`. Raises DataError where a ranking has
    a tie.
    """
    labels, columns = labels.consensus(), []
    for axis in range(scores.shape[1]):
        rows, keep = ranked(labels.values[0, :, axis], labels.known[0, :, axis], labels.tree)
        places = keep.sum(-1) - 1
        places = places if top is None else places.clamp(max=top)
        loss = ratio(plackett_luce_nll(scores[rows, axis], keep, top=top), places).sum()
        pairs = labels.pairs(axis)
        sums = (scores[pairs.better, axis] + scores[pairs.worse, axis]).square()
        loss = loss + center * (pairs.weights().to(scores) * sums).sum()
        columns.append({"loss": loss, "n_prompts": keep.any(-1).sum()})
    return _stacked(columns)


def regression_sums(scores: Tensor, labels: Labels) -> Sums:
    """The mean over a prompt's labelled responses of the squared distance from the label (of judges, their mean)."""
    labels, columns = labels.consensus(), []
    for axis in range(scores.shape[1]):
        rows = torch.nonzero(labels.known[0, :, axis]).flatten()
        prompt = labels.tree[rows]
        n_labelled = torch.bincount(prompt)
        squares = (scores[rows, axis] - labels.values[0, rows, axis].to(scores)).square()
        columns.append({"loss": ratio(squares, n_labelled[prompt]).sum(), "n_prompts": (n_labelled > 0).sum()})
    return _stacked(columns)


def _stacked(columns: Sequence[Sums]) -> Sums:
    return {name: torch.stack([column[name] for column in columns]) for name in columns[0]}


class KwiseLoss(NamedTuple):
    """Two ways to average the pairs of several rankings, and what each ranking gave."""

    prompt_mean: Tensor  # () mean over prompts of the mean over their pairs
    pair_mean: Tensor  # () mean over all pairs: prompts with many responses weigh more
    per_prompt: list[Tensor]  # the mean of each prompt that has a strict pair
    pairs_per_prompt: list[int]


def kwise_pairs_loss(scores: Sequence[Tensor], ranks: Sequence[Tensor]) -> KwiseLoss:
    """The K-wise loss of rankings given one by one: scores[p] and ranks[p] are (K_p,), rank 1 is best.

    Tied responses make no pair; a prompt without a strict pair is left out of both means.
    """
    per_prompt, sums, counts = [], [], []
    for prompt_scores, prompt_ranks in zip(scores, ranks, strict=True):
        better, worse = torch.nonzero(prompt_ranks[:, None] < prompt_ranks[None, :], as_tuple=True)
        losses = soft_bradley_terry(prompt_scores[better] - prompt_scores[worse])
        counts.append(len(better))
        sums.append(losses.sum())
        if len(better):
            per_prompt.append(losses.mean())
    total = torch.stack(sums).sum()
    prompt_mean = torch.stack(per_prompt).mean() if per_prompt else total
    return KwiseLoss(prompt_mean, ratio(total, sum(counts)), per_prompt, counts)


def cost_loss(more_harmful: Tensor, less_harmful: Tensor, sign_more: Tensor, sign_less: Tensor) -> Tensor:
    """Safe RLHF's cost-model loss (Dai et al. 2023): a ranking of costs whose zero separates safe from unsafe.

    All (B,); signs are +1 for an unsafe response and -1 for a safe one. Returns (B,).
    """
    return (
        F.softplus(less_harmful - more_harmful)
        + F.softplus(-sign_more * more_harmful)
        + F.softplus(-sign_less * less_harmful)
    )
