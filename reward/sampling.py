"""Rankings made of a policy's own samples: K responses a prompt, judged on every axis, with label noise."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models.chat import Prompt
from models.errors import ConfigError, Origin
from reward.rankings import AxisScores, Ranking

SAMPLED = "sample"  # the source of a response that the policy itself gave


@dataclass
class SamplingConfig:
    """What is sampled for rankings, and how noisy its labels are."""

    prompts: int = 1000  # prompts to rank responses of
    held_out: int = 160  # prompts to measure the reward model on, without noise
    samples: int = 4  # responses of the policy itself
    variants: int = 3  # perturbed and corrupted responses beside them
    temperature: float = 1.0
    max_new_tokens: int = 40
    noise: float = 0.1  # share of judgements that are replaced by a sibling's, on each axis apart

    def __post_init__(self) -> None:
        if self.samples + self.variants < 2 or self.samples < 1 or self.variants < 0:
            raise ConfigError(f"sampling.samples={self.samples}: expected at least 2 responses with sampling.variants")
        if not 0 <= self.noise < 0.5:
            raise ConfigError(f"sampling.noise={self.noise}: expected in [0, 0.5)")
        for name in ("prompts", "held_out", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"sampling.{name}={getattr(self, name)}: expected at least 1")
        if self.temperature <= 0:
            raise ConfigError(f"sampling.temperature={self.temperature}: expected above 0")


@dataclass(frozen=True)
class Candidate:
    """A response to be judged, who made it, and whether it closed its turn."""

    text: str
    source: str
    ended: bool = True


def rank(
    prompts: Sequence[Prompt],
    candidates: Sequence[Sequence[Candidate]],
    judge: Callable[[int, Candidate], tuple[float, float, float]],
) -> list[Ranking]:
    """Judge every candidate of every prompt; equal texts count once, prompts whose responses all tie are left out.

    judge(prompt index, candidate) gives helpful, honest and harmless.
    """
    rankings = []
    for i, (prompt, offered) in enumerate(zip(prompts, candidates, strict=True)):
        distinct = list({c.text: c for c in reversed(offered) if c.text.strip() and "\0" not in c.text}.values())[::-1]
        scores = [judge(i, candidate) for candidate in distinct]
        if len(set(scores)) > 1:
            texts, sources = tuple(c.text for c in distinct), tuple(c.source for c in distinct)
            rankings.append(Ranking(prompt, texts, tuple(scores), sources, Origin("sampled", i + 1)))
    return rankings


def with_noise(rankings: Sequence[Ranking], noise: float, rng: random.Random) -> list[Ranking]:
    """Each judgement, on each axis apart, is with probability `noise` replaced by that of a random sibling."""
    return [_noisy(ranking, noise, rng) for ranking in rankings]


def flipped_pairs(clean: Sequence[Ranking], noisy: Sequence[Ranking]) -> float:
    """Share of the strict pairs of the clean rankings, over all axes, whose order the noise turned or tied."""
    kept = total = 0
    for before, after in zip(clean, noisy, strict=True):
        for old, new in zip(zip(*before.scores, strict=True), zip(*after.scores, strict=True), strict=True):
            pairs = [(i, j) for i in range(len(old)) for j in range(len(old)) if old[i] > old[j]]
            total += len(pairs)
            kept += sum(new[i] > new[j] for i, j in pairs)
    return 1 - kept / total if total else 0.0


def _noisy(ranking: Ranking, noise: float, rng: random.Random) -> Ranking:
    axes = [_mistaken(axis, noise, rng) for axis in zip(*ranking.scores, strict=True)]
    scores: tuple[AxisScores, ...] = tuple(zip(*axes, strict=True))
    return Ranking(ranking.prompt, ranking.responses, scores, ranking.sources, ranking.origin)


def _mistaken(axis: tuple[float | None, ...], noise: float, rng: random.Random) -> list[float | None]:
    return [rng.choice(axis[:i] + axis[i + 1 :]) if rng.random() < noise else score for i, score in enumerate(axis)]
