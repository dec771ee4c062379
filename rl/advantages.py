"""Per-token rewards and the advantages made of them.

B = rollouts, T = response tokens, N = scored responses. `keep` (B, T) is true on response tokens up to and with the
end-of-turn token. Tokens inside a response that do not count (another speaker's, a tool's) are skipped: values and
advantages pass over them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from models.errors import ConfigError, NumericsError
from models.masked import alone, masked


class Advantages(NamedTuple):
    """What the policy and the critic learn from, 0 where `keep` is false."""

    advantages: Tensor  # (B, T)
    returns: Tensor  # (B, T) target of the critic


def gae(
    rewards: Tensor, values: Tensor, keep: Tensor, *, gamma: float, lam: float, bootstrap: Tensor | None = None
) -> Advantages:
    """Generalised advantage estimates (Schulman et al. 2016, eq. 16), not whitened.

    rewards, values, keep: (B, T).  bootstrap: (B,) value after the last kept token, for rows that were cut off
    by length; 0 by default. Returns are advantages + values.
    """
    keep = keep.bool()
    next_value = torch.zeros_like(values[:, 0]) if bootstrap is None else bootstrap.to(values)
    next_advantage = torch.zeros_like(next_value)
    columns = []
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = torch.where(keep[:, t], delta + gamma * lam * next_advantage, next_advantage)
        next_value = torch.where(keep[:, t], values[:, t], next_value)
        columns.append(next_advantage)
    advantages = masked(torch.stack(columns[::-1], dim=1), keep)
    return Advantages(advantages, masked(advantages + values, keep))


def rewards_to_go(rewards: Tensor, keep: Tensor, *, gamma: float) -> Tensor:
    """Discounted sum of the kept rewards from each token on, (B, T): `gae` with no critic and lam = 1."""
    return gae(rewards, torch.zeros_like(rewards), keep, gamma=gamma, lam=1.0).returns


def whiten(
    values: Tensor,
    keep: Tensor,
    *,
    shift_mean: bool = True,
    unbiased: bool = True,
    sum_over_ranks: Callable[[Tensor], Tensor] = alone,
) -> Tensor:
    """(x - mean) / sqrt(var + 1e-8) over the kept entries of all ranks, 0 elsewhere; same shape as `values`.

    shift_mean=False adds the mean back (the use for rewards).  sum_over_ranks: `over_ranks` where there are many; the
    result is then that of the concatenated batch, not of each shard.  Raises NumericsError with fewer than two
    entries to estimate a variance from, on every rank alike.
    """
    x = masked(values, keep).double()  # in which the sum of equal floats is exact, so that they whiten to exactly 0
    count, total = sum_over_ranks(torch.stack([keep.bool().sum().to(x), x.sum()])).unbind()
    if count < 2:
        raise NumericsError(f"whitening needs at least 2 entries over all ranks, got {int(count)}")
    mean = total / count
    # A second pass, since sum(x^2) - n * mean^2 loses its digits where the mean is large.
    squares = sum_over_ranks(masked((x - mean).square(), keep).sum())
    variance = squares / (count - 1 if unbiased else count)
    whitened = (x - mean) * torch.rsqrt(variance + 1e-8)
    return masked(whitened if shift_mean else whitened + mean, keep).to(values.dtype)


def centred(scores: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """Scores (N,) less their group's mean, (N / group_size, group_size), exactly 0 in a group of equal scores; and
    the groups."""
    if group_size < 2:
        raise ConfigError(f"a group baseline needs at least 2 responses a prompt, got group_size={group_size}")
    groups = scores.reshape(-1, group_size)
    # A mean of equal floats may differ from them in the last bit, and dividing by a tiny spread would show it.
    constant = (groups == groups[:, :1]).all(1, keepdim=True)
    return torch.where(constant, torch.zeros_like(groups), groups - groups.mean(1, keepdim=True)), groups


def grpo(scores: Tensor, *, group_size: int) -> Tensor:
    """(score - mean) / (sample std + 1e-6) in each group of consecutive responses to one prompt (Shao et al. 2024)."""
    deviations, groups = centred(scores, group_size)
    return (deviations / (groups.std(1, keepdim=True) + 1e-6)).flatten()


def dr_grpo(scores: Tensor, *, group_size: int) -> Tensor:
    """score - mean of the group: GRPO without its bias towards easy and hard prompts (Liu et al. 2025)."""
    return centred(scores, group_size)[0].flatten()


def rloo(scores: Tensor, *, group_size: int) -> Tensor:
    """score - mean of the other responses of the group, which is n / (n - 1) (score - mean) (Ahmadian et al. 2024)."""
    return centred(scores, group_size)[0].flatten() * (group_size / (group_size - 1))


# Scores (N,) in groups of `group_size` >= 2 consecutive responses to advantages (N,), one a response.
GROUP_ADVANTAGES: dict[str, Callable[..., Tensor]] = {"grpo": grpo, "dr_grpo": dr_grpo, "rloo": rloo}


def constant_groups(scores: Tensor, *, group_size: int) -> Tensor:
    """True for each group whose scores are all equal, and which therefore teaches nothing. (N / group_size,)"""
    groups = scores.reshape(-1, group_size)
    return (groups == groups[:, :1]).all(1)


def terminal_scores(
    scores: Tensor,
    ended: Tensor,
    *,
    clip: float | None = None,
    missing_end_penalty: float = 0.0,
    missing_end_score: float | None = None,
) -> Tensor:
    """The reward model's scores (B,) as PPO uses them: clipped to +-clip, then corrected where no end was reached.

    ended: (B,) bool, the response has its end-of-turn token.  A response without one loses `missing_end_penalty`, or
    gets the fixed `missing_end_score` where that is given.
    """
    clipped = scores if clip is None else scores.clamp(-clip, clip)
    unfinished = clipped - missing_end_penalty
    if missing_end_score is not None:
        unfinished = torch.full_like(clipped, missing_end_score)
    return torch.where(ended.bool(), clipped, unfinished)


def token_rewards(scores: Tensor, kl: Tensor, keep: Tensor, *, kl_coef: float) -> Tensor:
    """-kl_coef * kl on every kept token, plus the score on the last one. Detached, (B, T).

    scores: (B,).  kl: (B, T) per-token estimate.  A row that keeps no token gets no reward.
    """
    keep = keep.bool()
    position = torch.arange(keep.shape[1], device=keep.device)
    last = torch.where(keep, position, -1).amax(1, keepdim=True)
    rewards = masked(-kl_coef * kl, keep) + masked(scores[:, None].expand_as(kl), position == last)
    return rewards.detach()


def overlong_penalty(lengths: Tensor, *, max_length: int, buffer: int, factor: float) -> Tensor:
    """DAPO's soft penalty: 0 up to max_length - buffer tokens, then linearly down to -factor. lengths (N,), floats."""
    return ((max_length - buffer - lengths) / buffer * factor).clamp(max=0.0)
