"""A sampler of its own has not quite the policy's distribution: how far it is, and weights that make up for it.

B = responses, T = their tokens, logprobs of the same tokens by the trainer's forward (of the policy that was sampled
from) and by the sampler. `keep` (B, T) is true on response tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.errors import ConfigError
from models.masked import masked, masked_mean

CORRECTIONS = ("none", "token", "sequence")
FARTHEST = 20.0  # nats: e^20 is far beyond any cap


def importance_weights(
    trainer_logprobs: Tensor, sampler_logprobs: Tensor, keep: Tensor, *, how: str, cap: float
) -> Tensor:
    """Weights of the tokens' losses, (B, T), without gradient and 0 where not kept.

    none: 1.  token: min(trainer / sampler, cap), truncated importance sampling (Yao et al. 2025).  sequence: the ratio
    of the whole response on each of its tokens, and 0 for a response whose ratio is outside [1 / cap, cap].
    """
    gap = masked((trainer_logprobs - sampler_logprobs).detach(), keep)
    if how == "none":
        return keep.to(gap)
    if how == "token":
        return masked(gap.clamp(-FARTHEST, FARTHEST).exp().clamp(max=cap), keep)
    if how == "sequence":
        ratio = gap.sum(-1, keepdim=True).clamp(-FARTHEST, FARTHEST).exp()
        inside = (ratio <= cap) & (ratio * cap >= 1)
        return masked(ratio * inside, keep)
    raise ConfigError(f"rl.sampler.correction={how}: expected one of {', '.join(CORRECTIONS)}")


def sampler_mismatch(trainer_logprobs: Tensor, sampler_logprobs: Tensor, keep: Tensor) -> dict[str, float]:
    """How far apart the two are over the kept tokens: mean and largest absolute difference, and KL(sampler || trainer)
    by k3, which is never negative (Schulman 2020). All 0 where nothing is kept."""
    gap = masked((trainer_logprobs - sampler_logprobs).detach(), keep).clamp(-FARTHEST, FARTHEST)
    return {
        "mean": float(masked_mean(gap.abs(), keep)),
        "max": float(gap.abs().max()) if gap.numel() else 0.0,
        "kl": float(masked_mean(torch.expm1(gap) - gap, keep)),
    }
