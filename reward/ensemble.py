"""One reward model, or several read as one: what they say together, and how much they disagree.

M = members, R = responses, A = axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.chat import ChatFormat, Prompt
from models.errors import ArtifactError, ConfigError
from models.layout import LayoutConfig, Tree, fit, separate
from models.loading import max_positions, tokenizer_digest
from models.options import INPUT
from models.scorer import AXES, axes_of, score_trees
from reward.metrics import ensemble

COMBINED = ("mean", "worst", "cautious")
Member = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@dataclass
class AxisWeights:
    """What each axis counts in the overall score; axes of other names count 1."""

    helpful: float = 1.0
    honest: float = 1.0
    harmless: float = 1.0

    def __post_init__(self) -> None:
        values = [getattr(self, axis) for axis in AXES]
        if min(values) < 0 or not 0 < sum(values) < float("inf"):
            raise ConfigError(f"weights={values}: expected numbers of 0 or more, one of them above 0")


@dataclass(kw_only=True)
class EnsembleConfig:
    """Which reward models judge, and how several are read as one."""

    models: list[str] = field(default_factory=list, metadata=INPUT)  # reward models; several are read as one
    combine: str = "mean"  # of several, on each axis: mean, worst (the lowest), or cautious (mean less variance)
    uncertainty_coef: float = 1.0  # of combine=cautious: mean - uncertainty_coef * variance
    weights: AxisWeights = field(default_factory=AxisWeights)  # of the axes in the overall score

    def __post_init__(self) -> None:
        if self.combine not in COMBINED:
            raise ConfigError(f"combine={self.combine}: expected one of {', '.join(COMBINED)}")
        if not 0 <= self.uncertainty_coef < float("inf"):
            raise ConfigError(f"uncertainty_coef={self.uncertainty_coef}: expected 0 or more")


class Replies(NamedTuple):
    """A prompt with responses to it. `ended`: which of them closed their turn; None: all did."""

    prompt: Prompt
    texts: Sequence[str]
    ended: Sequence[bool] | None = None


class RewardEnsemble:
    """Reward models read as one. Calling it on prompt trees is calling a single scorer."""

    def __init__(self, members: Sequence[Member], cfg: EnsembleConfig, layout: LayoutConfig) -> None:
        self.members, self.cfg, self.layout = list(members), cfg, layout
        self.axes = axes_of(members[0][0].config)
        for model, _ in members:
            if axes_of(model.config) != self.axes:
                raise ArtifactError(
                    f"models={cfg.models}: one scores {', '.join(self.axes)}, another "
                    f"{', '.join(axes_of(model.config))}; read those of the same axes as one"
                )
        self._n_tokenizers = len({tokenizer_digest(tokenizer) for _, tokenizer in members})
        self._formats = [ChatFormat(tokenizer) for _, tokenizer in members]

    def __call__(self, trees: Sequence[Tree]) -> Tensor:
        """Combined scores of every response, (R, A). The trees hold token ids, which all members must share."""
        if self._n_tokenizers > 1:
            raise ArtifactError(
                f"models={self.cfg.models}: their tokenizers or templates differ, so no token ids mean the same to "
                "all; score texts, or train them from one stages.sft artefact"
            )
        return self.combined(torch.stack([score_trees(model, trees, self.layout) for model, _ in self.members]))

    def each(self, asked: Sequence[Replies]) -> Tensor:
        """Normalised scores by every member, which reads the texts in its own tokens, (M, R, A)."""
        return torch.stack([score_trees(self.members[m][0], self.trees(m, asked), self.layout) for m in self._places])

    def trees(self, member: int, asked: Sequence[Replies]) -> list[Tree]:
        """The texts as one member reads them: within its positions, prompts losing their beginning, replies their
        end."""
        room = self.room(member)
        trees = [fit(whole, room) or whole for whole in self.whole_trees(member, asked)]
        return trees if self.layout.tree else [row for tree in trees for row in separate(tree)]

    def whole_trees(self, member: int, asked: Sequence[Replies]) -> list[Tree]:
        """The texts in one member's tokens; an empty reply is its end alone."""
        chat = self._formats[member]
        return [
            Tree.of(
                chat.prompt(replies.prompt),
                [
                    chat.response(text, ended=ended) or chat.end_ids
                    for text, ended in zip(replies.texts, replies.ended or [True] * len(replies.texts), strict=True)
                ],
            )
            for replies in asked
        ]

    def room(self, member: int) -> int:
        """Tokens that a prompt with one response may have."""
        return self.layout.max_length or max_positions(self.members[member][0])

    def cut(self, asked: Sequence[Replies]) -> list[bool]:
        """Of each response: whether a member could not see all of it and its prompt."""
        seen = [
            [
                len(tree.prompt) + len(response) > self.room(m)
                for tree in self.whole_trees(m, asked)
                for response in tree.responses
            ]
            for m in self._places
        ]
        return [any(of_members) for of_members in zip(*seen, strict=True)]

    def combined(self, each: Tensor) -> Tensor:
        """(M, R, A) to (R, A), as `combine` says."""
        found = ensemble(each, uncertainty_coef=self.cfg.uncertainty_coef)
        return getattr(found, self.cfg.combine)

    def overall(self, scores: Tensor) -> Tensor:
        """The mean of the axes by their weights, (..., A) to (...)."""
        weights = scores.new_tensor([getattr(self.cfg.weights, axis, 1.0) for axis in self.axes])
        if not weights.sum() > 0:
            raise ConfigError(f"weights: none is above 0 on the models' axes {', '.join(self.axes)}")
        return scores @ weights / weights.sum()

    @property
    def _places(self) -> range:
        return range(len(self.members))
