"""From reward models to what judges a policy's responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from models.layout import LayoutConfig, separate
from models.scorer import axes_of, score_trees
from rl.config import RLConfig
from rl.rollout import Answers


class ModelScorer:
    """A reward model that reads the policy's own token ids."""

    def __init__(self, model: PreTrainedModel, layout: LayoutConfig) -> None:
        self.model, self.layout = model, layout
        self.columns = axes_of(model.config)
        self.weights: Mapping[str, float] = dict.fromkeys(self.columns, 1.0)

    def __call__(self, answers: Sequence[Answers]) -> Tensor:
        """(responses in order, columns)."""
        trees = [a.tree for a in answers]
        laid = trees if self.layout.tree else [row for tree in trees for row in separate(tree)]
        return score_trees(self.model, laid, self.layout)


def critic_weights(cfg: RLConfig, scorer: ModelScorer) -> Tensor:
    """What the critics' heads start as, (C, columns): the score's weights, and the constrained axis as a cost."""
    weights = cfg.column_weights(scorer.weights, progress=0.0)
    rows = [[weights[name] for name in scorer.columns]]
    if cfg.constraint.limit is not None:
        rows.append([-1.0 if name == cfg.constraint.axis else 0.0 for name in scorer.columns])
    return torch.tensor(rows)
