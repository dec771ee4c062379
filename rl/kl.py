"""How far the policy is from its reference, and what keeps it near: KL estimates, their controllers, and a multiplier
for a constraint on cost.

B = rollouts, T = response tokens. KL of a sequence is the SUM over its tokens, in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.errors import ConfigError, NumericsError
from models.masked import masked


def k1(difference: Tensor) -> Tensor:
    """d: unbiased, may be negative."""
    return difference


def k2(difference: Tensor) -> Tensor:
    """d^2 / 2: biased in value, and its gradient is that of the KL."""
    return 0.5 * difference.square()


def k3(difference: Tensor) -> Tensor:
    """exp(-d) - 1 + d: unbiased and never negative, but its gradient is not that of the KL."""
    return torch.expm1(-difference) + difference


def k3_value_k2_gradient(difference: Tensor) -> Tensor:
    """k3 to look at, k2 to descend."""
    return k2(difference) + (k3(difference) - k2(difference)).detach()


# Of d = log policy - log reference at a token that the policy sampled (Schulman 2020).
KL_ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3, "k3+": k3_value_k2_gradient}


def token_kl(
    logprobs: Tensor, ref_logprobs: Tensor, keep: Tensor, *, estimator: str = "k1", clamp: float | None = None
) -> Tensor:
    """Per-token estimate of KL(policy || reference), (B, T), 0 where `keep` is false.

    clamp bounds the log-ratio to +-clamp before the estimate; off by default, since it hides what happened.
    """
    difference = masked(logprobs - ref_logprobs, keep)
    difference = difference if clamp is None else difference.clamp(-clamp, clamp)
    return masked(KL_ESTIMATORS[estimator](difference), keep)


@dataclass(kw_only=True)
class FixedKL:
    """A coefficient that stays. `n_seen` counts sequences, as in `AdaptiveKL`."""

    coef: float
    n_seen: int = 0

    def update(self, kl: float, n_sequences: int, standard_error: float = 0.0) -> None:
        """kl: mean KL of the rollout's sequences over all ranks, with its standard error.  n_sequences: how many."""
        checked_kl(kl, math.inf, standard_error)
        self.n_seen += n_sequences

    def state_dict(self) -> dict[str, Any]:
        return {"coef": self.coef, "n_seen": self.n_seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.coef, self.n_seen = float(state["coef"]), int(state["n_seen"])


@dataclass(kw_only=True)
class AdaptiveKL(FixedKL):
    """Ziegler et al. 2019, eq. 4: coef *= 1 + clip(kl / target - 1, +-0.2) * n / horizon, after each rollout's update.

    target: nats per sequence.  horizon: sequences.
    """

    target: float
    horizon: float

    def __post_init__(self) -> None:
        if not (self.target > 0 and self.horizon > 0):
            raise ConfigError(
                f"adaptive KL needs target and horizon above 0, got target={self.target}, horizon={self.horizon}"
            )

    def update(self, kl: float, n_sequences: int, standard_error: float = 0.0) -> None:
        """kl: mean KL of the rollout's sequences over all ranks, with its standard error.  n_sequences: how many."""
        error = checked_kl(kl, self.target, standard_error) / self.target - 1.0
        self.coef *= 1.0 + min(max(error, -0.2), 0.2) * n_sequences / self.horizon
        self.n_seen += n_sequences


def checked_kl(kl: float, target: float, standard_error: float) -> float:
    """The KL, unless it is no number or clearly negative. Raises NumericsError.

    A mean of k1 estimates may fall below 0 by chance; a tenth of the target and six standard errors below is a fault
    of masks, temperature or template.
    """
    if not math.isfinite(kl) or kl < -max(0.1 * target, 6 * standard_error):
        raise NumericsError(f"the mean KL of a rollout is {kl:.4g} nats; expected a number >= 0 (check mask, template)")
    return kl


@dataclass(kw_only=True)
class Lagrangian:
    """The multiplier of PPO-Lagrangian: maximise reward such that the mean cost is at most `threshold`.

    Gradient ascent on log lambda (Dai et al. 2023, eq. 12), so that lambda stays above 0. The first `warmup` updates
    leave it as it is. The constraint holds in expectation, not for each prompt.
    """

    threshold: float
    lr: float
    log_lambda: float = 0.0
    max_lambda: float = math.inf
    warmup: int = 0
    n_updates: int = 0

    @property
    def multiplier(self) -> float:
        return math.exp(self.log_lambda)

    def advantages(self, reward_advantages: Tensor, cost_advantages: Tensor) -> Tensor:
        """(A_reward - lambda * A_cost) / (1 + lambda), any shape; whiten both before."""
        return (reward_advantages - self.multiplier * cost_advantages) / (1.0 + self.multiplier)

    def update(self, mean_cost: float) -> float:
        """Moves lambda by the mean cost of the finished episodes of all ranks; returns mean cost - threshold."""
        if not math.isfinite(mean_cost):
            raise NumericsError(f"the mean cost of a rollout is {mean_cost}")
        violation = mean_cost - self.threshold
        if self.n_updates >= self.warmup:
            raised = self.log_lambda + self.lr * self.multiplier * violation
            self.log_lambda = min(raised, math.log(self.max_lambda))
        self.n_updates += 1
        return violation

    def state_dict(self) -> dict[str, Any]:
        return {"log_lambda": self.log_lambda, "n_updates": self.n_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.log_lambda, self.n_updates = float(state["log_lambda"]), int(state["n_updates"])
