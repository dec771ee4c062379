"""Preference losses: DPO and its family, on log-probabilities of whole responses.

B = pairs, R = responses. Each loss of pairs returns one value a pair (B,), so that the caller decides how pairs weigh
and over what they are averaged. h = (policy - reference of chosen) - (policy - reference of rejected).
Log-probabilities are SUMS over response tokens unless a loss says "mean"; those divide by the token counts. Any other
loss is length-normalised by giving it `means()`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.masked import ratio


class PairLogprobs(NamedTuple):
    """Both sides of each pair under one model."""

    chosen: Tensor  # (B,) summed over response tokens, nats
    rejected: Tensor  # (B,)
    n_chosen: Tensor  # (B,) response tokens, end-of-turn included
    n_rejected: Tensor  # (B,)

    def means(self) -> PairLogprobs:
        """The same per token, as of responses of one token."""
        one = torch.ones_like(self.n_chosen)
        return PairLogprobs(self.chosen / self.n_chosen, self.rejected / self.n_rejected, one, one)


def log_ratios(policy: PairLogprobs, reference: PairLogprobs) -> tuple[Tensor, Tensor]:
    """log policy - log reference of chosen and of rejected, (B,) each."""
    return policy.chosen - reference.chosen, policy.rejected - reference.rejected


def margin(policy: PairLogprobs, reference: PairLogprobs) -> Tensor:
    """h, (B,)."""
    chosen, rejected = log_ratios(policy, reference)
    return chosen - rejected


def sigmoid(policy: PairLogprobs, reference: PairLogprobs, *, beta: float) -> Tensor:
    """DPO: -log sigmoid(beta h) (Rafailov et al. 2023, eq. 7). ln 2 where policy = reference."""
    return F.softplus(-beta * margin(policy, reference))


def cdpo(policy: PairLogprobs, reference: PairLogprobs, *, beta: float, label_smoothing: float) -> Tensor:
    """DPO when a share `label_smoothing` of the labels is wrong (Mitchell 2023): cross-entropy with soft labels."""
    h = beta * margin(policy, reference)
    return (1.0 - label_smoothing) * F.softplus(-h) + label_smoothing * F.softplus(h)


def robust(policy: PairLogprobs, reference: PairLogprobs, *, beta: float, label_smoothing: float) -> Tensor:
    """Unbiased DPO under label noise below 1/2 (Chowdhury et al. 2024, eq. 12)."""
    h = beta * margin(policy, reference)
    return ((1.0 - label_smoothing) * F.softplus(-h) - label_smoothing * F.softplus(h)) / (1.0 - 2.0 * label_smoothing)


def ipo(policy: PairLogprobs, reference: PairLogprobs, *, beta: float) -> Tensor:
    """(h - 1 / (2 beta))^2 (Azar et al. 2023, eq. 17). 1 / (4 beta^2) where policy = reference."""
    return (margin(policy, reference) - 1.0 / (2.0 * beta)).square()


def hinge(policy: PairLogprobs, reference: PairLogprobs, *, beta: float) -> Tensor:
    """relu(1 - beta h) (SLiC, Zhao et al. 2023)."""
    return F.relu(1.0 - beta * margin(policy, reference))


def simpo(policy: PairLogprobs, reference: PairLogprobs, *, beta: float, gamma: float) -> Tensor:
    """-log sigmoid(beta (mean chosen - mean rejected) - gamma) (Meng et al. 2024, eq. 6). No reference."""
    means = policy.means()
    return F.softplus(gamma - beta * (means.chosen - means.rejected))


def cpo(policy: PairLogprobs, reference: PairLogprobs, *, beta: float) -> Tensor:
    """-log sigmoid(beta (chosen - rejected)) + NLL per token of chosen (Xu et al. 2024). No reference."""
    return F.softplus(-beta * (policy.chosen - policy.rejected)) - policy.means().chosen


def log_odds(mean_logprob: Tensor) -> Tensor:
    """log p / (1 - p) of p = exp(mean_logprob) < 1, without the cancellation of 1 - p."""
    x = mean_logprob.clamp(max=-torch.finfo(mean_logprob.dtype).eps)
    near_one, small = torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x))
    return x - torch.where(x > -0.6931471805599453, near_one, small)


def orpo(policy: PairLogprobs, reference: PairLogprobs, *, beta: float) -> Tensor:
    """NLL per token of chosen - beta log sigmoid(log odds ratio) (Hong et al. 2024, eq. 6). No reference."""
    means = policy.means()
    return beta * F.softplus(log_odds(means.rejected) - log_odds(means.chosen)) - means.chosen


def rpo(policy: PairLogprobs, reference: PairLogprobs, *, beta: float, alpha: float) -> Tensor:
    """DPO + alpha * NLL per token of chosen, which keeps the chosen response likely (Pang et al. 2024, eq. 1)."""
    return sigmoid(policy, reference, beta=beta) - alpha * policy.means().chosen


def apo_zero(policy: PairLogprobs, reference: PairLogprobs, *, beta: float) -> Tensor:
    """Chosen up, rejected down (D'Oosterlinck et al. 2024): for chosen responses better than the policy's own."""
    chosen, rejected = log_ratios(policy, reference)
    return torch.sigmoid(-beta * chosen) + torch.sigmoid(beta * rejected)


def apo_down(policy: PairLogprobs, reference: PairLogprobs, *, beta: float) -> Tensor:
    """Both down, rejected more (D'Oosterlinck et al. 2024): for a policy that is better than the chosen responses."""
    chosen, rejected = log_ratios(policy, reference)
    return torch.sigmoid(beta * chosen) + torch.sigmoid(-beta * (chosen - rejected))


def bco(policy: PairLogprobs, reference: PairLogprobs, *, beta: float) -> Tensor:
    """A classifier of chosen against rejected on the implicit reward, without shift (Jung et al. 2024)."""
    chosen, rejected = log_ratios(policy, reference)
    return F.softplus(-beta * chosen) + F.softplus(beta * rejected)


PAIRWISE: dict[str, Callable[..., Tensor]] = {
    "sigmoid": sigmoid,
    "cdpo": cdpo,
    "robust": robust,
    "ipo": ipo,
    "hinge": hinge,
    "simpo": simpo,
    "cpo": cpo,
    "orpo": orpo,
    "rpo": rpo,
    "apo_zero": apo_zero,
    "apo_down": apo_down,
    "bco": bco,
}
REFERENCE_FREE = frozenset({"simpo", "cpo", "orpo"})
# Their formula is one of means already. A beta per token is larger than one of sums: 2 to 10 is usual, against 0.1.
LENGTH_NORMALISED = frozenset({"simpo", "orpo"})


def options_of(loss: str) -> frozenset[str]:
    """The hyper-parameters that a loss of PAIRWISE reads, such as beta."""
    parameters = inspect.signature(PAIRWISE[loss]).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


def preference_metrics(policy: PairLogprobs, reference: PairLogprobs, *, beta: float) -> dict[str, Tensor]:
    """Implicit rewards beta (policy - reference) and what they say, (B,) each and detached.

    The accuracy is strict, as at the start of training every pair is a tie; `rewards/ties` says so. A loss without a
    reference has one of zeros: the reward is then beta times the log-probability.
    """
    chosen, rejected = (beta * x.detach() for x in log_ratios(policy, reference))
    return {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": (chosen > rejected).to(chosen),
        "rewards/ties": (chosen == rejected).to(chosen),
    }


def listwise(policy: Tensor, reference: Tensor, below: Tensor, *, beta: float) -> Tensor:
    """DPO on whole rankings under Plackett-Luce (Rafailov et al. 2023, app. A.3), a term a response (R,).

    policy, reference: (R,) log-probabilities.  below: (R, R) bool, whether the second response ranks strictly below the
    first. The terms of a ranking add up to its negative log-likelihood; with two responses they are `sigmoid`. Of
    responses that tie each competes with those strictly below it, and none with those beside it.
    """
    rewards = beta * (policy - reference)
    itself = torch.eye(len(rewards), dtype=torch.bool, device=rewards.device)
    rivals = rewards.expand(len(rewards), -1).masked_fill((below | itself).logical_not(), -torch.inf)
    return rivals.logsumexp(-1) - rewards


def kto_baseline(total: Tensor, count: Tensor) -> Tensor:
    """KTO's reference point z = max(0, mean), no gradient, (). Ethayarajh et al. 2024, eq. 7.

    total, count: of log policy - log reference of responses paired with other prompts, over the whole optimizer step.
    """
    return ratio(total.detach(), count).clamp(min=0.0)


def kto(
    log_ratio: Tensor,
    desirable: Tensor,
    baseline: Tensor,
    *,
    beta: float,
    weight_desirable: float,
    weight_undesirable: float,
) -> Tensor:
    """KTO (Ethayarajh et al. 2024, eq. 8): unpaired responses, each good or bad. Returns (B,), weighted.

    log_ratio: (B,) log policy - log reference.  desirable: (B,) bool.  baseline: from `kto_baseline`.
    """
    good = weight_desirable * torch.sigmoid(beta * (baseline - log_ratio))
    bad = weight_undesirable * torch.sigmoid(beta * (log_ratio - baseline))
    return torch.where(desirable.bool(), good, bad)
