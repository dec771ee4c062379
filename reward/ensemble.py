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
from models.errors import ArtifactError, ConfigError, check_choice
from models.layout import LayoutConfig, Tree, fit, separate
from models.loading import max_positions, tokenizer_digest
from models.options import INPUT
from models.scorer import AXES, AxisWeights, axes_of, score_trees
from reward.metrics import ensemble

COMBINED = ("mean", "worst", "cautious", "lower_bound")


@dataclass(kw_only=True)
class MembersConfig:
    """Which reward models are read as one, and how."""

    models: list[str] = field(default_factory=list, metadata=INPUT)  # reward models; several are read as one
    combine: str = "mean"  # of several, on each axis: mean, worst, cautious (less variance), lower_bound (less std)
    uncertainty_coef: float = 1.0  # times what combine=cautious and combine=lower_bound take from the mean

    def __post_init__(self) -> None:
        check_choice("combine", self.combine, COMBINED)
        if not 0 <= self.uncertainty_coef < float("inf"):
            raise ConfigError(f"uncertainty_coef={self.uncertainty_coef}: expected 0 or more")


@dataclass(kw_only=True)
class EnsembleConfig(MembersConfig):
    """Which reward models judge, how several are read as one, and what they say in one number."""

    weights: AxisWeights = field(default_factory=AxisWeights)  # in the overall score; axes of other names count 1

    def __post_init__(self) -> None:
        super().__post_init__()
        values = [getattr(self.weights, axis) for axis in AXES]
        if min(values) < 0 or not 0 < sum(values) < float("inf"):
            raise ConfigError(f"weights={values}: expected numbers of 0 or more, one of them above 0")


class Replies(NamedTuple):
    """A prompt with responses to it. `ended`: which of them closed their turn; None: all did."""

    prompt: Prompt
    texts: Sequence[str]
    ended: Sequence[bool] | None = None


class RewardModel:
    """One reward model, which reads texts in its own tokens."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, layout: LayoutConfig) -> None:
        self.model, self.tokenizer, self.layout = model, tokenizer, layout
        self.axes, self.chat = axes_of(model.config), ChatFormat(tokenizer)
        self.room = layout.max_length or max_positions(model)  # tokens that a prompt with one response may have

    def __call__(self, trees: Sequence[Tree]) -> Tensor:
        """Normalised scores of every response, (R, A). The trees hold the model's own token ids."""
        return score_trees(self.model, trees, self.layout)

    def of_texts(self, asked: Sequence[Replies]) -> Tensor:
        """The same of texts, as `read` has it."""
        return self.read(self.trees(asked))

    def read(self, trees: Sequence[Tree]) -> Tensor:
        """The same of trees of any length; where they exceed the room, prompts lose their beginning and replies their
        end."""
        # A reply of targets alone keeps half of the room at least, so that every tree fits once it is cut.
        cut = [fit(tree, self.room) or tree for tree in trees]
        return self(cut if self.layout.tree else [row for tree in cut for row in separate(tree)])

    def trees(self, asked: Sequence[Replies]) -> list[Tree]:
        """The whole texts in the model's tokens; an empty reply is its end alone."""
        return [Tree.of(self.chat.prompt(replies.prompt), self._responses(replies)) for replies in asked]

    def cuts(self, asked: Sequence[Replies]) -> list[bool]:
        """Of each response: whether it and its prompt exceed the room."""
        return [len(tree.prompt) + len(r) > self.room for tree in self.trees(asked) for r in tree.responses]

    def _responses(self, replies: Replies) -> list[list[int]]:
        ended = replies.ended or [True] * len(replies.texts)
        said = zip(replies.texts, ended, strict=True)
        return [self.chat.response(text, ended=end) or self.chat.end_ids for text, end in said]


class RewardEnsemble:
    """Reward models read as one. Calling it on prompt trees is calling a single one of them."""

    def __init__(self, members: Sequence[RewardModel], cfg: EnsembleConfig) -> None:
        self.members, self.cfg, self.axes = list(members), cfg, members[0].axes
        if other := next((member.axes for member in members if member.axes != self.axes), None):
            raise ArtifactError(
                f"models={cfg.models}: one scores {', '.join(self.axes)}, another {', '.join(other)}; one ensemble has "
                "the same axes"
            )
        self._n_tokenizers = len({tokenizer_digest(member.tokenizer) for member in members})

    def __call__(self, trees: Sequence[Tree]) -> Tensor:
        """Combined scores of every response, (R, A). The trees hold token ids, which all members must share."""
        if self._n_tokenizers > 1:
            raise ArtifactError(
                f"models={self.cfg.models}: their tokenizers or templates differ, so no token ids mean the same to "
                "all; score texts, or train them from one stages.sft artefact"
            )
        return self.combined(torch.stack([member(trees) for member in self.members]))

    def each(self, asked: Sequence[Replies]) -> Tensor:
        """Normalised scores of texts by every member, (M, R, A)."""
        return torch.stack([member.of_texts(asked) for member in self.members])

    def cuts(self, asked: Sequence[Replies]) -> list[bool]:
        """Of each response: whether it was too long, together with its prompt, for a member."""
        return [any(of_members) for of_members in zip(*(m.cuts(asked) for m in self.members), strict=True)]

    def combined(self, each: Tensor) -> Tensor:
        """(M, R, A) to (R, A), as `combine` says."""
        return combined(each, self.cfg)

    def overall(self, scores: Tensor) -> Tensor:
        """The mean of the axes by their weights, (..., A) to (...)."""
        weights = scores.new_tensor([getattr(self.cfg.weights, axis, 1.0) for axis in self.axes])
        if not weights.sum() > 0:
            raise ConfigError(f"weights: none is above 0 on the models' axes {', '.join(self.axes)}")
        return scores @ weights / weights.sum()


def combined(each: Tensor, cfg: MembersConfig) -> Tensor:
    """What members (M, R, A) say together, (R, A), as `cfg.combine` has it."""
    return getattr(ensemble(each, uncertainty_coef=cfg.uncertainty_coef), cfg.combine)
