"""Where policy-gradient algorithms differ: how advantages are made of rewards, and what each takes for granted.

R = responses of a rollout, those to one prompt in a row, T = its longest response.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor

from models.masked import masked
from rl.advantages import Advantages, dr_grpo, gae, grpo, rewards_to_go, rloo, token_rewards, whiten


class Earned(NamedTuple):
    """What the responses of a rollout earned of one thing: of the reward, or of a cost."""

    scores: Tensor  # (R,) of whole responses
    kl_penalty: Tensor  # (R, T) subtracted from the reward of each token; 0 where the KL is in the loss
    values: Tensor | None  # (R, T) the critic's
    bootstrap: Tensor | None  # (R,) its value after the last token of a response that was cut off, else 0
    keep: Tensor  # (R, T) bool
    group_size: int  # responses a prompt

    def rewards(self, *, scores: Tensor | None = None) -> Tensor:
        """Of every token, (R, T): the penalty, and the score on the last."""
        return token_rewards(self.scores if scores is None else scores, self.kl_penalty, self.keep, kl_coef=1.0)


class Discount(NamedTuple):
    """How far a reward reaches back."""

    gamma: float
    lam: float
    whiten_rewards: bool


def with_critic(earned: Earned, discount: Discount) -> Advantages:
    """PPO (Schulman et al. 2017): generalised advantage estimates."""
    rewards = earned.rewards()
    if discount.whiten_rewards:
        rewards = whiten(rewards, earned.keep, shift_mean=False)
    return gae(
        rewards,
        earned.values,
        earned.keep,
        gamma=discount.gamma,
        lam=discount.lam,
        bootstrap=earned.bootstrap,
    )


def with_group(baseline: Callable[..., Tensor], earned: Earned, discount: Discount) -> Advantages:
    """GRPO and its relatives: a response against the others to its prompt, the same advantage on all its tokens.

    A KL penalty in the reward is added token by token after the baseline, as its reward-to-go.
    """
    against_others = baseline(earned.scores, group_size=earned.group_size)[:, None].expand_as(earned.kl_penalty)
    drift = rewards_to_go(-earned.kl_penalty, earned.keep, gamma=discount.gamma)
    advantages = masked(against_others + drift, earned.keep)
    return Advantages(advantages, advantages)


def to_go(earned: Earned, discount: Discount) -> Advantages:
    """REINFORCE++ (Hu 2025): the reward to go. Whitened over the rollout it is its own baseline."""
    returns = rewards_to_go(earned.rewards(), earned.keep, gamma=discount.gamma)
    return Advantages(returns, returns)


def to_go_with_group(earned: Earned, discount: Discount) -> Advantages:
    """REINFORCE++ with a baseline: the group's mean is taken from each score first."""
    scores = dr_grpo(earned.scores, group_size=earned.group_size)
    returns = rewards_to_go(earned.rewards(scores=scores), earned.keep, gamma=discount.gamma)
    return Advantages(returns, returns)


class Algorithm(NamedTuple):
    """An algorithm, and the choices that go with it unless an option says otherwise."""

    advantages: Callable[[Earned, Discount], Advantages]
    critic: bool  # learns a value of every token
    groups: bool  # compares several responses to one prompt
    kl_in: str  # reward or loss
    estimator: str  # of the KL
    aggregation: str  # of the loss over tokens
    whiten: bool  # advantages over the rollout

    def but(self, **chosen: object) -> Algorithm:
        """The same with some choices made otherwise; None leaves one as it is."""
        return self._replace(**{name: value for name, value in chosen.items() if value is not None})


ALGORITHMS: dict[str, Algorithm] = {
    "ppo": Algorithm(with_critic, True, False, "reward", "k1", "token_mean", True),
    "grpo": Algorithm(partial(with_group, grpo), False, True, "loss", "k3", "seq_mean_token_mean", False),
    "dr_grpo": Algorithm(partial(with_group, dr_grpo), False, True, "loss", "k3", "dr_grpo", False),
    "rloo": Algorithm(partial(with_group, rloo), False, True, "reward", "k1", "token_mean", False),
    "reinforce_pp": Algorithm(to_go, False, False, "reward", "k1", "token_mean", True),
    "reinforce_pp_baseline": Algorithm(to_go_with_group, False, True, "loss", "k2", "token_mean", True),
}
