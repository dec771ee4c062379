"""A three-axis reward model as what TRL's PPOTrainer takes: a classifier with one label."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from rl.actor_critic import critic_from


def one_label(reward_model: PreTrainedModel, weights: Sequence[float] = (1.0, 1.0, 1.0)) -> PreTrainedModel:
    """The weighted sum of the normalised axes, less its constant part: a classifier's head has no bias.

    The constant changes nothing that PPO learns where the critic starts from the same head, since the score and the
    values are then shifted alike.
    """
    folded = copy.deepcopy(reward_model)
    head = critic_from(folded, torch.tensor([weights])).value_head
    folded.score = nn.Linear(head.in_features, 1, bias=False).to(head.weight)
    with torch.no_grad():
        folded.score.weight.copy_(head.weight)
    folded.config.num_labels = folded.num_labels = 1
    folded.config.id2label, folded.config.label2id = {0: "LABEL_0"}, {"LABEL_0": 0}
    folded.config.reward_mean, folded.config.reward_std = [0.0], [1.0]
    return folded
