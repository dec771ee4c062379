"""The panel of measurements of one model: scores of its responses, and the estimates made of them.

n = prompts, A = axes. Every prompt counts once; intervals are 95 % bootstrap over prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evals.intervals import Estimate, bootstrap_mean, paired_difference, win_rate
from evals.subject import Response
from models.scorer import AXES

Nested = dict[str, object]


@dataclass(frozen=True)
class Answers:
    """One model's responses to the panel's prompts, with what judges made of them."""

    responses: list[Response]
    gold: Tensor | None  # (n, A) by a judge that knows the truth, where there is one
    reward: Tensor | None  # (n, A) normalised scores of the reward model

    def overall(self) -> Tensor | None:
        """(n,) what a win is decided by: the mean of the gold axes, of the learned ones without gold."""
        scores = self.gold if self.gold is not None else self.reward
        return None if scores is None else scores.mean(1)


Subset = Callable[[int], bool]
"""Whether a subset holds the prompt with this index."""


def estimates(answers: Answers, log_ratio: Tensor | None) -> Nested:
    """Gold and learned scores, KL to the reference, length and truncation. log_ratio: (n,) to the reference."""
    found: Nested = {}
    if answers.gold is not None:
        found["gold"] = by_axis(answers.gold)
    if answers.reward is not None:
        found["reward"] = by_axis(answers.reward)
    if log_ratio is not None:
        found["kl"] = bootstrap_mean(log_ratio).as_dict()
    found["length"] = bootstrap_mean([len(r.ids) for r in answers.responses]).as_dict()
    found["truncated"] = bootstrap_mean([float(not r.ended) for r in answers.responses]).as_dict()
    return found


def by_axis(scores: Tensor) -> Nested:
    """Each axis and their mean, (n, A)."""
    columns = {**dict(zip(AXES, scores.T, strict=True)), "mean": scores.mean(1)}
    return {name: bootstrap_mean(column).as_dict() for name, column in columns.items()}


def comparison(ours: Answers, theirs: Answers) -> Nested:
    """Paired differences of every score, and the win rate, on the same prompts."""
    found: Nested = {}
    for name in ("gold", "reward"):
        own, other = getattr(ours, name), getattr(theirs, name)
        if own is not None and other is not None:
            found[name] = {
                axis: paired_difference(a, b).as_dict()
                for axis, a, b in zip((*AXES, "mean"), with_mean(own).T, with_mean(other).T, strict=True)
            }
    lengths = [[float(len(r.ids)) for r in answers.responses] for answers in (ours, theirs)]
    found["length"] = paired_difference(*lengths).as_dict()
    return found


def wins(ours: Answers, theirs: Answers) -> Estimate | None:
    """How often ours beats theirs, ties one half."""
    own, other = ours.overall(), theirs.overall()
    return None if own is None or other is None else win_rate(own, other)


def with_mean(scores: Tensor) -> Tensor:
    """(n, A) with the mean as one more column."""
    return torch.cat([scores, scores.mean(1, keepdim=True)], dim=1)


def share(values: Sequence[float]) -> dict[str, float | int] | None:
    """The mean of a subset's values, None where it is empty."""
    return bootstrap_mean(values).as_dict() if len(values) else None
