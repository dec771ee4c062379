"""What a rollout teaches: rewards, advantages and the critic's targets, fixed before the first update on it.

R = responses, T = the longest, C = critics (of the reward, and of the cost under a constraint), N = tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from models.layout import Batch, LayoutConfig, collate_rankings
from rl.advantages import Advantages, overlong_penalty, terminal_scores, whiten
from rl.algorithms import Discount, Earned
from rl.config import RLConfig, ScoreConfig
from rl.kl import FixedKL, Lagrangian, token_kl
from rl.losses import AGGREGATIONS
from rl.mismatch import importance_weights
from rl.rollout import Rollout


@dataclass
class RunningMoments:
    """Mean and standard deviation of all that was seen, in one pass (Welford 1962, in its form for batches)."""

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared deviations

    def add(self, values: Tensor) -> None:
        n, x = len(values), values.double()
        mean, squares = float(x.mean()), float((x - x.mean()).square().sum())
        total, gap = self.count + n, mean - self.mean
        self.squares += squares + gap * gap * self.count * n / total
        self.mean += gap * n / total
        self.count = total

    def normalised(self, values: Tensor) -> Tensor:
        """Their distance from the mean in standard deviations; 0 where all that was seen is equal."""
        deviation = (self.squares / max(1.0, self.count - 1)) ** 0.5
        return (values - self.mean) / deviation if deviation > 1e-8 else torch.zeros_like(values)


@dataclass
class Controls:
    """What changes from rollout to rollout, and is part of a checkpoint."""

    kl: FixedKL
    lagrangian: Lagrangian | None
    moments: RunningMoments = field(default_factory=RunningMoments)

    @classmethod
    def of(cls, cfg: RLConfig) -> Controls:
        return cls(cfg.kl.controller(), cfg.constraint.lagrangian())

    def state_dict(self) -> dict[str, Any]:
        multiplier = self.lagrangian.state_dict() if self.lagrangian else None
        return {"kl": self.kl.state_dict(), "multiplier": multiplier, "moments": dict(vars(self.moments))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.kl.load_state_dict(state["kl"])
        if self.lagrangian is not None:
            self.lagrangian.load_state_dict(state["multiplier"])
        self.moments = RunningMoments(**state["moments"])


@dataclass(frozen=True)
class Experience:
    """A rollout with what its tokens earned."""

    rollout: Rollout
    advantages: Tensor  # (R, T)
    returns: Tensor | None  # (R, T, C) targets of the critics
    importance: Tensor  # (R, T) of a token in the loss, for a sampler that is not quite the policy
    kl: Tensor  # (R,) nats per response, k1
    score: Tensor  # (R,) as it entered the reward
    cost: Tensor | None  # (R,) under a constraint

    def collate(self, trees: Sequence[int], layout: LayoutConfig, aggregation: str, max_length: int) -> Batch:
        """A batch of the responses to some prompts. Beside the layout's, fields in its order of tokens, (N,) or (N, C):
        old_logprobs, ref_logprobs, advantages, weight (in the mean over tokens), and of critics old_values and returns.

        units: the denominators of the policy's loss and of the critics'.
        """
        rollout, size = self.rollout, self.rollout.group_size
        rows = torch.tensor([i * size + g for i in trees for g in range(size)], dtype=torch.long)
        mask = rollout.mask[rows]
        weights, denominator = AGGREGATIONS[aggregation]
        planes = {
            "old_logprobs": rollout.tokens["logprobs"][rows],
            "ref_logprobs": rollout.tokens["ref_logprobs"][rows],
            "advantages": self.advantages[rows],
            "weight": weights(mask).float() * self.importance[rows],
        }
        if self.returns is not None:
            planes |= {"old_values": rollout.tokens["values"][rows], "returns": self.returns[rows]}
        units = torch.stack([denominator(mask, max_length), mask.sum()]).float()
        batch = collate_rankings([rollout.answers[i].tree for i in trees], layout)
        return {**batch, **{name: plane[mask] for name, plane in planes.items()}, "units": units}


def experience(
    rollout: Rollout, cfg: RLConfig, controls: Controls, columns: Sequence[str], weights: Mapping[str, float]
) -> Experience:
    """Rewards and advantages of a rollout. columns: of its scores; weights: what each counts."""
    kind, keep = cfg.kind, rollout.mask
    score = weighted(rollout.scores, columns, weights)
    if cfg.score.normalise:
        controls.moments.add(score)
        score = controls.moments.normalised(score)
    score = shaped(score, rollout, cfg.score, cfg.max_new_tokens)
    logprobs, ref_logprobs = rollout.tokens["logprobs"], rollout.tokens["ref_logprobs"]
    kl = token_kl(logprobs, ref_logprobs, keep, estimator=kind.estimator, clamp=cfg.kl.clamp)
    penalty = kl * (controls.kl.coef if kind.kl_in == "reward" else 0.0)
    found = _advantages(_earned(score, penalty, rollout, 0, cfg), cfg)
    cost, advantages, returns = None, found.advantages, [found.returns]
    if controls.lagrangian is not None:
        cost = -rollout.scores[:, list(columns).index(cfg.constraint.axis)]
        of_cost = _advantages(_earned(cost, torch.zeros_like(penalty), rollout, 1, cfg), cfg)
        advantages = controls.lagrangian.advantages(advantages, of_cost.advantages)
        returns.append(of_cost.returns)
    drift = ((logprobs - ref_logprobs) * keep).sum(1)
    importance = importance_weights(
        logprobs, rollout.tokens["sampler_logprobs"], keep, how=cfg.sampler.how, cap=cfg.sampler.cap
    )
    targets = torch.stack(returns, -1) if kind.critic else None
    return Experience(rollout, advantages, targets, importance, drift, score, cost)


def weighted(scores: Tensor, columns: Sequence[str], weights: Mapping[str, float]) -> Tensor:
    """Scores (R, columns) as one number a response, (R,)."""
    return scores @ torch.tensor([weights[name] for name in columns])


def shaped(score: Tensor, rollout: Rollout, cfg: ScoreConfig, max_new_tokens: int) -> Tensor:
    """Scores (R,) clipped, and corrected where a response did not end or is about to be too long."""
    score = terminal_scores(
        score,
        rollout.ended,
        clip=cfg.clip,
        missing_end_penalty=cfg.missing_end_penalty,
        missing_end_score=cfg.missing_end_score,
    )
    if not cfg.overlong_buffer:
        return score
    lengths = rollout.mask.sum(1).float()
    return score + overlong_penalty(
        lengths, max_length=max_new_tokens, buffer=cfg.overlong_buffer, factor=cfg.overlong_penalty
    )


def _earned(scores: Tensor, penalty: Tensor, rollout: Rollout, critic: int, cfg: RLConfig) -> Earned:
    values = rollout.tokens["values"][..., critic] if cfg.kind.critic else None
    bootstrap = None
    if cfg.bootstrap and rollout.end_values is not None:
        bootstrap = torch.where(rollout.ended, 0.0, rollout.end_values[:, critic])
    return Earned(scores, penalty, values, bootstrap, rollout.mask, rollout.group_size)


def _advantages(earned: Earned, cfg: RLConfig) -> Advantages:
    found = cfg.kind.advantages(earned, Discount(cfg.gamma, cfg.lam, cfg.whiten_rewards))
    return found._replace(advantages=whiten(found.advantages, earned.keep)) if cfg.kind.whiten else found
