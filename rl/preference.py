"""Preference losses: DPO and its family, on log-probabilities of whole responses.

B = pairs, P = prompts, K = responses of a prompt. Each loss returns one value a pair (B,), so that the caller decides
how pairs weigh and over what they are averaged. h = (policy - reference of chosen) - (policy - reference of rejected).
Log-probabilities are SUMS over response tokens unless a loss says "mean", and those divide by the token counts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.comparisons import plackett_luce_nll
from models.masked import alone, ratio


class PairLogprobs(NamedTuple):
    """Both sides of each pair under one model."""

    chosen: Tensor  # (B,) summed over response tokens, nats
    rejected: Tensor  # (B,)
    n_chosen: Tensor  # (B,) response tokens, end-of-turn included
    n_rejected: Tensor  # (B,)

    def means(self) -> PairLogprobs:
        """The same per token."""
        return self._replace(chosen=self.chosen / self.n_chosen, rejected=self.rejected / self.n_rejected)


def log_ratios(policy: PairLogprobs, reference: PairLogprobs) -> tuple[Tensor, Tensor]:
    """log policy - log reference of chosen and of rejected, (B,) each."""
    return policy.chosen - reference.chosen, policy.rejected - reference.rejected


def margin(policy: PairLogprobs, reference: PairLogprobs) -> Tensor:
    """h, (B,)."""
    chosen, rejected = log_ratios(policy, reference)
    return chosen - rejected


def dpo(policy: PairLogprobs, reference: PairLogprobs, *, beta: float) -> Tensor:
    """-log sigmoid(beta h) (Rafailov et al. 2023, eq. 7). ln 2 where policy = reference."""
    return F.softplus(-beta * margin(policy, reference))


def cdpo(policy: PairLogprobs, reference: PairLogprobs, *, beta: float, label_smoothing: float) -> Tensor:
    """DPO when a share `label_smoothing` of the labels is wrong (Mitchell 2023): cross-entropy with soft labels."""
    h = beta * margin(policy, reference)
    return (1.0 - label_smoothing) * F.softplus(-h) + label_smoothing * F.softplus(h)


def robust(policy: PairLogprobs, reference: PairLogprobs, *, beta: float, label_smoothing: float) -> Tensor:
    """Unbiased DPO under label noise below 1/2 (Chowdhury et al. 2024, eq. 12)."""
    h = beta * margin(policy, reference)
    return ((1.0 - label_smoothing) * F.softplus(-h) - label_smoothing * F.softplus(h)) / (1.0 - 2.0 * label_smoothing)


def ipo_sum(policy: PairLogprobs, reference: PairLogprobs, *, beta: float) -> Tensor:
    """(h - 1 / (2 beta))^2 (Azar et al. 2023, eq. 17)."""
    return (margin(policy, reference) - 1.0 / (2.0 * beta)).square()


def ipo_mean(policy: PairLogprobs, reference: PairLogprobs, *, beta: float) -> Tensor:
    """IPO on mean log-probabilities, which keeps long responses from dominating."""
    return ipo_sum(policy.means(), reference.means(), beta=beta)


def hinge(policy: PairLogprobs, reference: PairLogprobs, *, beta: float) -> Tensor:
    """relu(1 - beta h) (SLiC, Zhao et al. 2023)."""
    return F.relu(1.0 - beta * margin(policy, reference))


def sigmoid_norm(policy: PairLogprobs, reference: PairLogprobs, *, beta: float) -> Tensor:
    """DPO on mean log-probabilities."""
    return dpo(policy.means(), reference.means(), beta=beta)


def simpo(policy: PairLogprobs, reference: PairLogprobs | None, *, beta: float, gamma: float) -> Tensor:
    """-log sigmoid(beta (mean chosen - mean rejected) - gamma) (Meng et al. 2024, eq. 6). No reference."""
    means = policy.means()
    return F.softplus(gamma - beta * (means.chosen - means.rejected))


def cpo(policy: PairLogprobs, reference: PairLogprobs | None, *, beta: float) -> Tensor:
    """-log sigmoid(beta (chosen - rejected)) + NLL per token of chosen (Xu et al. 2024). No reference."""
    return F.softplus(-beta * (policy.chosen - policy.rejected)) - policy.means().chosen


def log_odds(mean_logprob: Tensor) -> Tensor:
    """log p / (1 - p) of p = exp(mean_logprob) < 1, without the cancellation of 1 - p."""
    x = mean_logprob.clamp(max=-torch.finfo(mean_logprob.dtype).eps)
    near_one, small = torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x))
    return x - torch.where(x > -0.6931471805599453, near_one, small)


def orpo(policy: PairLogprobs, reference: PairLogprobs | None, *, beta: float) -> Tensor:
    """NLL per token of chosen - beta log sigmoid(log odds ratio) (Hong et al. 2024, eq. 6). No reference."""
    means = policy.means()
    return beta * F.softplus(log_odds(means.rejected) - log_odds(means.chosen)) - means.chosen


def rpo(policy: PairLogprobs, reference: PairLogprobs, *, beta: float, alpha: float) -> Tensor:
    """DPO + alpha * NLL per token of chosen, which keeps the chosen response likely (Pang et al. 2024, eq. 1)."""
    return dpo(policy, reference, beta=beta) - alpha * policy.means().chosen


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


PREFERENCE_LOSSES: dict[str, Callable[..., Tensor]] = {
    "dpo": dpo,
    "cdpo": cdpo,
    "robust": robust,
    "ipo_sum": ipo_sum,
    "ipo_mean": ipo_mean,
    "hinge": hinge,
    "sigmoid_norm": sigmoid_norm,
    "simpo": simpo,
    "cpo": cpo,
    "orpo": orpo,
    "rpo": rpo,
    "apo_zero": apo_zero,
    "apo_down": apo_down,
    "bco": bco,
}
REFERENCE_FREE = frozenset({"simpo", "cpo", "orpo"})
# Their beta is per token: 2 to 10 is usual, against 0.1 for sums.
LENGTH_NORMALISED = frozenset({"ipo_mean", "sigmoid_norm", "simpo", "orpo"})


def options_of(loss: str) -> frozenset[str]:
    """The hyper-parameters that a loss of PREFERENCE_LOSSES reads, such as beta."""
    parameters = inspect.signature(PREFERENCE_LOSSES[loss]).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


def preference_metrics(policy: PairLogprobs, reference: PairLogprobs | None, *, beta: float) -> dict[str, Tensor]:
    """Implicit rewards beta (policy - reference) and what they say, (B,) each and detached.

    `accuracy` is strict, as at the start of training every pair is a tie; `tie` says so. Without a reference the
    reward is beta times the log-probability.
    """
    chosen, rejected = log_ratios(policy, reference) if reference is not None else (policy.chosen, policy.rejected)
    chosen, rejected = beta * chosen.detach(), beta * rejected.detach()
    return {
        "reward_chosen": chosen,
        "reward_rejected": rejected,
        "margin": chosen - rejected,
        "accuracy": (chosen > rejected).to(chosen),
        "tie": (chosen == rejected).to(chosen),
        "logprobs_chosen": policy.chosen.detach(),
        "logprobs_rejected": policy.rejected.detach(),
    }


def kto_baseline(mismatched: Tensor, *, sum_over_ranks: Callable[[Tensor], Tensor] = alone) -> Tensor:
    """KTO's reference point z = max(0, mean over all ranks), no gradient, (). Ethayarajh et al. 2024, eq. 7.

    mismatched: (M,) log policy - log reference of responses paired with other prompts of the batch.
    """
    total, count = sum_over_ranks(torch.stack([mismatched.detach().sum(), mismatched.new_tensor(len(mismatched))]))
    return ratio(total, count).clamp(min=0.0)


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


def plackett_luce_dpo(ordered: Tensor, ref_ordered: Tensor, keep: Tensor | None = None, *, beta: float) -> Tensor:
    """DPO on whole rankings (Rafailov et al. 2023, app. A.3), (P,). With K = 2 it is `dpo`.

    ordered, ref_ordered: (P, K) summed log-probabilities from best to worst.  keep: (P, K), padding on the right.
    """
    return plackett_luce_nll(beta * (ordered - ref_ordered), keep)
