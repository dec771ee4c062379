"""Where a critic starts: as the reward model that scores the policy's own tokens, or as the policy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from models.loading import ModelConfig, load_scorer
from models.voices import Voices, can_share
from rl.actor_critic import Critic, ValueHead, critic_from, fresh_critic, zero_head
from rl.config import RLConfig
from rl.rollout import Scorer
from stages.reward_terms import RewardTerms
from train.artifact import model_folder


def starting_critic(
    cfg: RLConfig,
    reward: RewardTerms,
    loading: ModelConfig,
    policy: PreTrainedModel,
    fresh: Callable[[], PreTrainedModel | Voices],
    say: Callable[[str], object],
) -> Critic | ValueHead | None:
    """None where the algorithm has no critic.

    loading: how the reward model is loaded. fresh: the policy's voices where it has any, else makes a copy of it; what
    starts there has values of 0.
    """
    if not cfg.kind.critic:
        return None
    weights = critic_weights(cfg, reward)
    if cfg.critic == "head":
        return zero_head(policy, len(weights))
    if reward.shared is not None:
        return critic_from(reward.shared, weights[:, : reward.shared.config.num_labels])
    if reward.critic_path is None or can_share(policy):
        lacks = "is on its weights" if can_share(policy) else "reads its tokens"
        say(f"the critic starts as the policy, every value at 0: no reward model {lacks}")
        return fresh_critic(fresh(), len(weights))
    model, _ = load_scorer(model_folder(reward.critic_path, "reward"), loading)
    return critic_from(model, weights[:, : model.config.num_labels])


def critic_weights(cfg: RLConfig, scorer: Scorer) -> Tensor:
    """What the critics' heads start as, (C, columns): the score's weights, and the constrained axis as a cost."""
    weights = cfg.column_weights(scorer.weights, progress=0.0)
    rows = [[weights[name] for name in scorer.columns]]
    if cfg.constraint.limit is not None:
        rows.append([-1.0 if name == cfg.constraint.axis else 0.0 for name in scorer.columns])
    return torch.tensor(rows)
