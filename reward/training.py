"""Learning from rankings: rows of prompt trees with labels on each axis, the objective, and the reference statistics.

R = responses of a batch, A = axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.chat import ChatFormat
from models.errors import ConfigError, DataError
from models.layout import Batch, LayoutConfig, Tree, collate, fit, separate
from models.objective import Mean, Metrics
from models.scorer import AXES, raw_scores
from reward.losses import kwise_axes_loss, kwise_sums
from reward.rankings import Ranking


@dataclass
class RewardLoss:
    """How rankings become a loss."""

    center: float = 0.01  # pulls the scores of a pair towards a sum of 0
    helpful: float = 1.0  # weight of the axis
    honest: float = 1.0
    harmless: float = 1.0

    def __post_init__(self) -> None:
        for axis in AXES:
            if getattr(self, axis) < 0:
                raise ConfigError(f"loss.{axis}={getattr(self, axis)}: expected 0 or more")
        if self.center < 0:
            raise ConfigError(f"loss.center={self.center}: expected 0 or more")

    @property
    def weights(self) -> list[float]:
        return [getattr(self, axis) for axis in AXES]


def labels_of(ranking: Ranking) -> tuple[Tensor, Tensor]:
    """Scores (K, A), 0 where unlabelled, and the mask of what is labelled."""
    labelled = torch.tensor([[score is not None for score in scores] for scores in ranking.scores])
    return torch.tensor([[score or 0.0 for score in scores] for scores in ranking.scores]), labelled


def ranking_tree(ranking: Ranking, chat: ChatFormat, ended: Sequence[bool] | None = None) -> Tree:
    """A ranking as a prompt tree; every response is closed unless `ended` says that it was cut off."""
    closed = ended or [True] * len(ranking.responses)
    responses = [chat.response(text, ended=end) for text, end in zip(ranking.responses, closed, strict=True)]
    return Tree.of(chat.prompt(ranking.prompt), responses)


class RankingRows:
    """Prompt trees with the labels of their responses. `n_dropped` rankings did not fit `max_length`."""

    def __init__(self, rankings: Sequence[Ranking], chat: ChatFormat, layout: LayoutConfig, max_length: int) -> None:
        fitted = [(r, fit(ranking_tree(r, chat), max_length, layout.long_prompt)) for r in rankings]
        self.rankings = [r for r, tree in fitted if tree is not None]
        self.trees = [tree for _, tree in fitted if tree is not None]
        self.labels = [labels_of(r) for r in self.rankings]
        self.n_dropped = len(fitted) - len(self.trees)
        if not self.trees:
            raise DataError(f"none of {len(fitted)} rankings fits {max_length} tokens; raise layout.max_length")
        self.layout = layout

    def __len__(self) -> int:
        return len(self.trees)

    def collate(self, indices: Sequence[int]) -> Batch:
        trees = [self.trees[i] for i in indices]
        labels = torch.cat([self.labels[i][0] for i in indices])
        labelled = torch.cat([self.labels[i][1] for i in indices])
        prompt = torch.repeat_interleave(torch.arange(len(trees)), torch.tensor([len(t.responses) for t in trees]))
        if not self.layout.tree:
            trees = [row for tree in trees for row in separate(tree)]
        batch = {**collate(trees, bin_tokens=self.layout.bin_tokens), "labels": labels, "labelled": labelled}
        counts = kwise_sums(torch.zeros_like(labels), labels, labelled, prompt)["n_prompts"]
        return {**batch, "prompt": prompt, "units": counts.float()}


class RankingObjective:
    """The K-wise loss of every axis on the head's raw scores. units: (A,) prompts with a strict pair on the axis."""

    def __init__(self, cfg: RewardLoss) -> None:
        self.cfg = cfg

    def __call__(self, model: nn.Module, batch: Batch, units: Tensor) -> tuple[Tensor, Metrics]:
        scores = raw_scores(model, batch)
        loss, sums = kwise_axes_loss(
            scores,
            batch["labels"],
            batch["labelled"],
            batch["prompt"],
            n_prompts_per_axis=units,
            center=self.cfg.center,
            axis_weights=scores.new_tensor(self.cfg.weights),
        )
        metrics = {
            f"{name}/{axis}": Mean(sums[key][k], sums["n_prompts"][k])
            for name, key in (("accuracy", "correct"), ("margin", "margin"), ("loss", "loss"))
            for k, axis in enumerate(AXES)
        }
        return loss, metrics
