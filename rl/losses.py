"""Losses of PPO and its relatives, per token, and the ways to average them.

B = rollouts, T = response tokens. `keep` (B, T) is true on response tokens. Every mean can be taken over the whole
optimizer step: pass the step's denominator as `total`, and the results of micro-batches and ranks add up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from models.masked import masked, masked_mean, ratio


class Clipped(NamedTuple):
    """A clipped loss, and where the clip had a say."""

    loss: Tensor  # (B, T) not masked
    clipped: Tensor  # (B, T) bool


def clipped_surrogate(
    log_ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float, dual_clip: float | None = None
) -> Clipped:
    """PPO's max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)), per token (Schulman et al. 2017, eq. 7).

    log_ratio: (B, T), new less old log-probability (`sequence_log_ratio` of it for GSPO).  dual_clip > 1 bounds the
    loss of negative advantages by -A * dual_clip (Ye et al. 2020).
    """
    r = log_ratio.clamp(-20.0, 20.0).exp()
    free, bounded = -advantages * r, -advantages * r.clamp(1.0 - clip_low, 1.0 + clip_high)
    loss = torch.maximum(free, bounded)
    if dual_clip is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -advantages * dual_clip), loss)
    return Clipped(loss, bounded > free)


def sequence_log_ratio(log_ratio: Tensor, keep: Tensor) -> Tensor:
    """Mean log-ratio of each row, on all its tokens, (B, T): GSPO's ratio of whole sequences (Zheng et al. 2025)."""
    mean = ratio(masked(log_ratio, keep).sum(-1), keep.bool().sum(-1))
    return mean[:, None].expand_as(log_ratio)


def policy_metrics(log_ratio: Tensor, clipped: Tensor, keep: Tensor) -> dict[str, Tensor]:
    """Means over kept tokens: share clipped, KL(old || new) by k1 and k3, mean ratio. All detached scalars."""
    log_ratio = masked(log_ratio.detach(), keep).clamp(-20.0, 20.0)
    r = log_ratio.exp()
    return {
        "clip_fraction": masked_mean(clipped.to(r), keep),
        "approx_kl": masked_mean(torch.expm1(log_ratio) - log_ratio, keep),
        "approx_kl_k1": masked_mean(-log_ratio, keep),
        "ratio": masked_mean(r, keep),
    }


def clipped_value_error(values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float | None = None) -> Clipped:
    """0.5 max((v - R)^2, (clip(v, old +- clip) - R)^2) per token; without a clip half the squared error. (B, T) all."""
    free = (values - returns).square()
    if clip is None:
        return Clipped(0.5 * free, torch.zeros_like(free, dtype=torch.bool))
    bounded = (values.clamp(old_values - clip, old_values + clip) - returns).square()
    return Clipped(0.5 * torch.maximum(free, bounded), bounded > free)


class Aggregation(NamedTuple):
    """A mean over tokens: the weight of each kept one, and what their weighted sum is divided by. Weighted sums and
    denominators add up over micro-batches and ranks."""

    weights: Callable[[Tensor], Tensor]  # keep (B, T) to (B, T) float64
    denominator: Callable[[Tensor, int | None], Tensor]  # keep, constant length


def each_token(keep: Tensor) -> Tensor:
    """1 on kept tokens."""
    return keep.double()


def each_row(keep: Tensor) -> Tensor:
    """1 / (kept tokens of the row) on kept tokens."""
    return ratio(keep.double(), keep.bool().sum(-1, keepdim=True))


def count_tokens(keep: Tensor, norm_length: int | None) -> Tensor:
    """Kept tokens."""
    return keep.bool().sum()


def count_rows(keep: Tensor, norm_length: int | None) -> Tensor:
    """Rows that keep at least one token."""
    return keep.bool().any(-1).sum()


def count_constant(keep: Tensor, norm_length: int | None) -> Tensor:
    """All rows times a constant length, by default T."""
    return torch.tensor(len(keep) * (norm_length or keep.shape[1]), device=keep.device)


AGGREGATIONS: dict[str, Aggregation] = {
    "token_mean": Aggregation(each_token, count_tokens),
    "seq_mean_token_mean": Aggregation(each_row, count_rows),
    "seq_mean_token_sum": Aggregation(each_token, count_rows),
    "dr_grpo": Aggregation(each_token, count_constant),
}


def aggregate(
    per_token: Tensor, keep: Tensor, *, how: str, norm_length: int | None = None, total: Tensor | float | None = None
) -> Tensor:
    """One number of a per-token loss (B, T), by a name of AGGREGATIONS.

    total: the denominator of the whole optimizer step, which is `AGGREGATIONS[how].denominator(keep, norm_length)`
    added up over its micro-batches and ranks; by default this batch's own. norm_length: dr_grpo's constant.
    """
    weights, denominator = AGGREGATIONS[how]
    weighted = (masked(per_token, keep) * weights(keep).to(per_token)).sum()
    return ratio(weighted, denominator(keep, norm_length) if total is None else total)


def ppo_total(
    policy: Tensor,
    value: Tensor | float = 0.0,
    entropy: Tensor | float = 0.0,
    ptx: Tensor | float = 0.0,
    *,
    value_coef: float = 0.0,
    entropy_coef: float = 0.0,
    ptx_coef: float = 0.0,
) -> Tensor:
    """policy + value_coef * value - entropy_coef * entropy + ptx_coef * ptx (Ouyang et al. 2022, eq. 2, as a loss).

    ptx is the token-mean NLL of pretraining text. InstructGPT's 27.8 is in units of its own batches: do not copy it.
    """
    return policy + value_coef * value - entropy_coef * entropy + ptx_coef * ptx
