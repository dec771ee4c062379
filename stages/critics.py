"""Where a critic starts: as the reward model that scores the policy's own tokens, or as the policy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.loading import ModelConfig, load_scorer
from rl.actor_critic import critic_from, fresh_critic
from rl.config import RLConfig
from rl.rollout import Scorer
from stages.reward_terms import RewardTerms
from train.artifact import model_folder


def starting_critic(
    cfg: RLConfig,
    reward: RewardTerms,
    loading: ModelConfig,
    policy: Callable[[], PreTrainedModel],
    say: Callable[[str], object],
) -> tuple[nn.Module, nn.Linear] | None:
    """A backbone and a head; None where the algorithm has no critic.

    loading: how the reward model is loaded. policy: makes a copy of the policy, whose values start at 0.
    """
    if not cfg.kind.critic:
        return None
    weights = critic_weights(cfg, reward)
    if reward.critic_path is None:
        say("the critic starts as the policy, every value at 0: no reward model reads its tokens")
        return fresh_critic(policy(), len(weights))
    model, _ = load_scorer(model_folder(reward.critic_path, "reward"), loading)
    return critic_from(model, weights[:, : model.config.num_labels])


def critic_weights(cfg: RLConfig, scorer: Scorer) -> Tensor:
    """What the critics' heads start as, (C, columns): the score's weights, and the constrained axis as a cost."""
    weights = cfg.column_weights(scorer.weights, progress=0.0)
    rows = [[weights[name] for name in scorer.columns]]
    if cfg.constraint.limit is not None:
        rows.append([-1.0 if name == cfg.constraint.axis else 0.0 for name in scorer.columns])
    return torch.tensor(rows)
