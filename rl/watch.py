"""What a rollout says of the policy: numbers under the names that the field uses, and a few of its responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from models.generation import Sample
from rl.advantages import constant_groups
from rl.experience import Controls, Experience
from rl.mismatch import sampler_mismatch
from rl.repetition import distinct, most_common, repeated

N_SHOWN = 16  # responses of a rollout that are kept as text


def rollout_metrics(found: Experience, controls: Controls, columns: Sequence[str]) -> dict[str, float]:
    """columns: of the scores."""
    rollout, mask = found.rollout, found.rollout.mask
    mismatch = sampler_mismatch(rollout.tokens["logprobs"], rollout.tokens["sampler_logprobs"], mask)
    metrics = {
        "objective/kl": float(found.kl.mean()),
        "objective/kl_p95": float(found.kl.quantile(0.95)),
        "objective/kl_coef": controls.kl.coef,
        "objective/score": float(found.score.mean()),
        "objective/score_std": spread(found.score),
        "objective/entropy": float(rollout.tokens["entropy"][mask].mean()),
        **{f"reward/{name}": value for name, value in zip(columns, rollout.scores.mean(0).tolist(), strict=True)},
        **{f"sampler/{name}": value for name, value in mismatch.items()},
        **response_metrics([s for answers in rollout.answers for s in answers.samples]),
        **{f"seconds/{part}": seconds for part, seconds in rollout.seconds.items()},
    }
    if rollout.group_size > 1:
        equal = constant_groups(found.score, group_size=rollout.group_size)
        metrics["advantage/equal_groups"] = float(equal.float().mean())
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


def spread(values: Tensor) -> float:
    """Standard deviation, exactly 0 where all values are equal; a mean of equal floats may be off in the last bit."""
    return 0.0 if bool((values == values[0]).all()) else float(values.std(correction=0))


def response_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    """Lengths, ends and repetition, the end tokens not among what is repeated."""
    said = [sample.ids[:-1] if sample.ended else sample.ids for sample in samples]
    lengths = [len(sample.ids) for sample in samples]
    return {
        "response/length": sum(lengths) / len(lengths),
        "response/length_max": float(max(lengths)),
        "response/ended": share([sample.ended for sample in samples]),
        "response/empty": share([not ids for ids in said]),
        "response/repeated": sum(map(repeated, said)) / len(said),
        "response/distinct_2": distinct(said),
        "response/most_common": most_common(said),
    }


def share(holds: Sequence[bool]) -> float:
    return sum(holds) / len(holds)


def rollout_record(
    iteration: int, found: Experience, columns: Sequence[str], text: Callable[[Sample], str]
) -> dict[str, Any]:
    """What numbers in a log cannot hold: every response's KL, length and score, and the first responses themselves."""
    rollout, size = found.rollout, found.rollout.group_size
    shown = [(i * size + g, a.question, s) for i, a in enumerate(rollout.answers) for g, s in enumerate(a.samples)]
    samples: list[Mapping[str, Any]] = [
        {
            "prompt": question.prompt[-1].content,
            "text": text(sample),
            "ended": sample.ended,
            "kl": float(found.kl[row]),
            "scores": dict(zip(columns, rollout.scores[row].tolist(), strict=True)),
        }
        for row, question, sample in shown[:N_SHOWN]
    ]
    return {
        "iteration": iteration,
        "kl": found.kl.tolist(),
        "score": found.score.tolist(),
        "length": rollout.mask.sum(1).tolist(),
        "samples": samples,
    }
