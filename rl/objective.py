"""The loss of an update: clipped surrogate, KL, critics' errors, entropy and PTX, over the tokens of a minibatch.

N = response tokens of a micro-batch, C = critics.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.errors import NumericsError
from models.layout import Batch
from models.logprobs import per_response, response_lengths
from models.masked import over_ranks
from models.objective import Mean, Metrics
from rl.config import RLConfig
from rl.kl import KL_ESTIMATORS
from rl.losses import clipped_surrogate, clipped_value_error, policy_metrics, ppo_total


class PolicyObjective:
    """units: of the policy's mean, of the critics' (tokens), and tokens of pretraining text, each of the whole step.

    What is seen of a step is told by `step_metrics`, and is logged with its rollout, not with the trainer's steps.
    kl_coef: β of a KL in the loss, read at each step. first_ratio: how far the ratio may be off 1 before any update.
    """

    def __init__(self, cfg: RLConfig, *, first_ratio: float = 1e-3) -> None:
        self.cfg, self.kind, self.first_ratio = cfg, cfg.kind, first_ratio
        self._step: list[dict[str, Tensor]] = []

    def __call__(self, model: nn.Module, batch: Batch, units: Tensor) -> tuple[Tensor, Metrics]:
        cfg = self.cfg
        text = {name[4:]: value for name, value in batch.items() if name.startswith("ptx_")}
        found = model(batch, cfg.temperature, text or None)
        if batch["first"]:
            check_first_ratio(found.logprobs - batch["old_logprobs"], self.first_ratio)
        policy, metrics = self._policy(found.logprobs, batch)
        value = torch.zeros(())
        if found.values is not None:
            error = clipped_value_error(found.values, batch["old_values"], batch["returns"], clip=cfg.value_clip)
            value = error.loss.sum()
            metrics["value/loss"] = Mean(value.detach(), batch["units"][1])
            metrics["value/clip_fraction"] = Mean(error.clipped.float().mean(-1).sum(), batch["units"][1])
        nll = -found.ptx_logprobs.sum() if text else torch.zeros(())
        if cfg.ptx_coef:
            metrics["ptx/nll"] = Mean(nll.detach(), batch["units"][2])
        entropy = (batch["weight"] * found.entropy).sum()
        metrics["policy/entropy"] = Mean(found.entropy.detach().sum(), batch["units"][1])
        total = ppo_total(
            policy / units[0],
            value / units[1],
            entropy / units[0] if cfg.entropy_coef else 0.0,
            nll / units[2] if text else 0.0,
            value_coef=cfg.value_coef,
            entropy_coef=cfg.entropy_coef,
            ptx_coef=cfg.ptx_coef,
        )
        where = {"dtype": torch.float64, "device": total.device}
        self._step.append({name: torch.stack([torch.as_tensor(x, **where) for x in m]) for name, m in metrics.items()})
        return total, {}

    def step_metrics(self) -> dict[str, tuple[float, float]]:
        """(sum, count) of each metric over the micro-batches and processes of the step just taken."""
        names = sorted(self._step[0])
        summed = over_ranks(torch.stack([torch.stack([seen[name] for name in names]) for seen in self._step]).sum(0))
        self._step.clear()
        return {name: (total, count) for name, (total, count) in zip(names, summed.tolist(), strict=True)}

    def _policy(self, logprobs: Tensor, batch: Batch) -> tuple[Tensor, Metrics]:
        """The summed loss of the policy, to be divided by the units of the step, and what is seen of it."""
        cfg, n = self.cfg, batch["units"][1]
        log_ratio = logprobs - batch["old_logprobs"]
        if cfg.ratio == "sequence":
            log_ratio = (per_response(log_ratio, batch) / response_lengths(batch))[batch["response"]]
        surrogate = clipped_surrogate(
            log_ratio,
            batch["advantages"],
            clip_low=cfg.clip,
            clip_high=cfg.clip if cfg.clip_high is None else cfg.clip_high,
            dual_clip=cfg.dual_clip,
        )
        loss = surrogate.loss
        seen = policy_metrics(log_ratio, surrogate.clipped, torch.ones_like(log_ratio, dtype=torch.bool))
        metrics = {f"policy/{name}": Mean(value * n, n) for name, value in seen.items()}
        metrics["policy/loss"] = Mean((batch["weight"] * loss.detach()).sum(), batch["units"][0])
        if self.kind.kl_in == "loss":
            kl = KL_ESTIMATORS[self.kind.estimator](self._clamped(logprobs - batch["ref_logprobs"]))
            loss = loss + batch["kl_coef"] * kl
            metrics["policy/kl_loss"] = Mean((batch["weight"] * kl.detach()).sum(), batch["units"][0])
        return (batch["weight"] * loss).sum(), metrics

    def _clamped(self, difference: Tensor) -> Tensor:
        bound = self.cfg.kl.clamp
        return difference if bound is None else difference.clamp(-bound, bound)


def check_first_ratio(log_ratio: Tensor, tolerance: float = 1e-3) -> None:
    """Before any update the policy is the one that sampled: its ratio is 1, or the two forwards disagree."""
    worst = float(torch.expm1(log_ratio.detach()).abs().max())
    if not worst <= tolerance:
        raise NumericsError(
            f"the ratio of the first minibatch is off 1 by {worst:.2g}; rollout and training see different models "
            "(dropout, mask, template or precision)"
        )
