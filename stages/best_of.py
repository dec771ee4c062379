"""Best of n: how far picking among samples by a learned reward goes, and what the truth makes of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from evals.intervals import bootstrap_mean
from evals.panel import Nested
from evals.subject import Response, Subject
from models.chat import Prompt
from models.errors import ConfigError
from models.scorer import AXES
from reward.ensemble import EnsembleConfig, Replies, RewardEnsemble
from reward.metrics import best_of_n
from stages.world_panel import WorldPanel, gold


@dataclass(kw_only=True)
class BestOfConfig(EnsembleConfig):
    """What is sampled and picked from. `models`: the reward models; none: the stage's reward=."""

    n: list[int] = field(default_factory=list)  # of so many samples the best is picked: [1,2,4,8,16]; none: no picking
    policy: str | None = None  # the model that is sampled, by its name in models.*; null: the reference
    samples: int | None = None  # drawn for each prompt; null: the largest n. More make the estimates surer
    prompts: int = 200  # at most so many of the prompts

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(n < 1 for n in self.n):
            raise ConfigError(f"best_of.n={self.n}: expected numbers of samples, 1 or more")
        if self.samples is not None and self.samples < max(self.n, default=1):
            raise ConfigError(
                f"best_of.samples={self.samples}: expected at least {max(self.n, default=1)}, as best_of.n"
            )
        if self.prompts < 1:
            raise ConfigError(f"best_of.prompts={self.prompts}: expected at least 1")


def best_of(
    model: Subject,
    asked: Sequence[Prompt],
    world: WorldPanel | None,
    judges: RewardEnsemble,
    cfg: BestOfConfig,
    temperature: float,
    generator: torch.Generator,
) -> Nested:
    """Of each n: the learned reward of the pick (proxy), its gold score where there is one, and the KL of picking.

    The estimates are unbiased over all subsets of the samples; their intervals are over prompts. ln n - (n - 1) / n is
    the KL from sampling once where no two responses are scored alike, an upper bound elsewhere (Beirami et al. 2024).
    """
    rows = sorted(random.Random(0).sample(range(len(asked)), min(cfg.prompts, len(asked))))
    samples = cfg.samples or max(cfg.n)
    prompts = [asked[i] for i in rows for _ in range(samples)]
    responses = model.respond(prompts, temperature=temperature, generator=generator)
    each = judges.each([replies(asked[i], responses[j * samples : (j + 1) * samples]) for j, i in enumerate(rows)])
    proxy = judges.overall(judges.combined(each)).view(len(rows), samples)
    truth = None
    if world is not None:
        scores = gold([world.tasks[i] for i in rows for _ in range(samples)], responses)
        truth = (judges.overall(scores) if judges.axes == AXES else scores.mean(1)).view(len(rows), samples)
    found: Nested = {}
    for n in sorted(set(cfg.n)):
        picked = [best_of_n(p, t, n=n) for p, t in zip(proxy, proxy if truth is None else truth, strict=True)]
        found[str(n)] = {"kl": picked[0].kl, "proxy": bootstrap_mean([pick.proxy for pick in picked]).as_dict()}
        if truth is not None:
            found[str(n)] |= {"gold": bootstrap_mean([pick.gold for pick in picked]).as_dict()}
    return found


def replies(prompt: Prompt, responses: Sequence[Response]) -> Replies:
    return Replies(prompt, [r.text for r in responses], [r.ended for r in responses])
