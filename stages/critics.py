"""Where a critic starts: as the reward model that scores the policy's own tokens, or as the policy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from models.voices import Voices
from rl.actor_critic import Critic, ValueHead, critic_from, fresh_critic, zero_head
from rl.config import RLConfig
from rl.rollout import Scorer
from stages.reward_terms import RewardTerms


def starting_critic(
    cfg: RLConfig,
    reward: RewardTerms,
    policy: PreTrainedModel,
    voices: Voices | None,
    copy: Callable[[], PreTrainedModel],
    say: Callable[[str], object],
) -> Critic | ValueHead | None:
    """A critic that starts as the reward model, unless it is a head, or a voice that the reward model cannot be. None
    where the algorithm has none.

    voices: the policy's, one of which the critic becomes. copy: makes one of the policy as it starts.
    """
    if not cfg.kind.critic:
        return None
    weights = critic_weights(cfg, reward)
    if cfg.critic == "head":
        return zero_head(policy, len(weights))
    if reward.to_value is not None:
        start = reward.to_value()
        return critic_from(start, weights[:, : start.config.num_labels])
    lacks = "reads its tokens" if voices is None else "is on its weights"
    say(f"the critic starts as the policy, every value at 0: no reward model {lacks}")
    return fresh_critic(voices or copy(), len(weights))


def critic_weights(cfg: RLConfig, scorer: Scorer) -> Tensor:
    """What the critics' heads start as, (C, columns): the score's weights, and the constrained axis as a cost."""
    weights = cfg.column_weights(scorer.weights, progress=0.0)
    rows = [[weights[name] for name in scorer.columns]]
    if cfg.constraint.limit is not None:
        rows.append([-1.0 if name == cfg.constraint.axis else 0.0 for name in scorer.columns])
    return torch.tensor(rows)
