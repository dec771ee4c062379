"""What a rollout says of the policy, under the names that the field uses."""

from __future__ import annotations

from collections.abc import Sequence

from rl.experience import Controls, Experience
from rl.mismatch import sampler_mismatch


def rollout_metrics(found: Experience, controls: Controls, columns: Sequence[str]) -> dict[str, float]:
    """columns: of the scores."""
    rollout, mask = found.rollout, found.rollout.mask
    mismatch = sampler_mismatch(rollout.tokens["logprobs"], rollout.tokens["sampler_logprobs"], mask)
    metrics = {
        "objective/kl": float(found.kl.mean()),
        "objective/kl_coef": controls.kl.coef,
        "objective/score": float(found.score.mean()),
        "objective/entropy": float(rollout.tokens["entropy"][mask].mean()),
        **{f"reward/{name}": value for name, value in zip(columns, rollout.scores.mean(0).tolist(), strict=True)},
        "response/length": float(mask.sum(1).float().mean()),
        "response/ended": float(rollout.ended.float().mean()),
        **{f"sampler/{name}": value for name, value in mismatch.items()},
        **{f"seconds/{part}": seconds for part, seconds in rollout.seconds.items()},
    }
    if found.returns is not None:
        returns, values = (x[..., 0][mask] for x in (found.returns, rollout.tokens["values"]))
        left = (returns - values).var() / returns.var().clamp(min=1e-8)
        metrics["value/explained_variance"] = float(1 - left)
    if controls.lagrangian is not None:
        metrics |= {
            "constraint/cost": float(found.cost.mean()),
            "constraint/multiplier": controls.lagrangian.multiplier,
            "constraint/violation_rate": float((found.cost > controls.lagrangian.threshold).float().mean()),
            "constraint/cost_p95": float(found.cost.quantile(0.95)),
        }
    return metrics
