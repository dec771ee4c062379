"""Preferences among the policy's own samples: K responses to a prompt, ranked by what a scorer finds of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from models.errors import ConfigError
from models.generation import sample
from models.layout import Tree

Scorer = Callable[[Sequence[Tree]], Tensor]
"""Trees to (responses in order, axes), larger is better."""


@dataclass
class OnlineConfig:
    """Rounds of sampling, ranking and learning."""

    rounds: int = 0  # 0: learn from the rankings of the data; above, of the data only the prompts are learnt from
    prompts: int = 128  # a round
    samples: int = 4  # responses of the policy to each
    epochs: int = 1  # passes over a round's rankings
    temperature: float = 1.0
    max_new_tokens: int = 64
    missing_end_penalty: float = 1.0  # taken from the score of a response that did not close its turn
    reference: str = "start"  # the policy before the first round, or previous: as it was when the round began

    def __post_init__(self) -> None:
        for name, least in {"rounds": 0, "prompts": 1, "samples": 2, "epochs": 1, "max_new_tokens": 1}.items():
            if getattr(self, name) < least:
                raise ConfigError(f"online.{name}={getattr(self, name)}: expected at least {least}")
        if not 0 < self.temperature < float("inf"):
            raise ConfigError(f"online.temperature={self.temperature}: expected a number above 0")
        if self.missing_end_penalty < 0:
            raise ConfigError(f"online.missing_end_penalty={self.missing_end_penalty}: expected 0 or more")
        if self.reference not in ("start", "previous"):
            raise ConfigError(f"online.reference={self.reference}: expected start or previous")


@dataclass(frozen=True)
class Ranked:
    """A prompt, its distinct sampled responses, and what they are worth."""

    prompt: int  # place in the list that was asked
    tree: Tree
    ended: list[bool]  # K, the response closed its turn
    scores: Tensor  # (K, axes) the scorer's
    preference: Tensor  # (K,) sum of the axes, less the penalty


def ranked_samples(
    policy: PreTrainedModel,
    prompts: Sequence[list[int]],
    score: Scorer,
    cfg: OnlineConfig,
    ends: Collection[int],
    generator: torch.Generator,
) -> list[Ranked]:
    """The prompts whose responses differ in worth, each with its ranking."""
    found = sample(
        policy,
        [prompt for prompt in prompts for _ in range(cfg.samples)],
        max_new_tokens=cfg.max_new_tokens,
        ends=ends,
        temperature=cfg.temperature,
        generator=generator,
    )
    # The same ids are one response; they end alike, as the end token is one of them.
    distinct = [
        {tuple(s.ids): s.ended for s in found[i * cfg.samples : (i + 1) * cfg.samples]} for i in range(len(prompts))
    ]
    trees = [Tree.of(p, [list(ids) for ids in responses]) for p, responses in zip(prompts, distinct, strict=True)]
    scores = score(trees).split([len(tree.responses) for tree in trees])
    ranked = []
    for i, (tree, responses, worth) in enumerate(zip(trees, distinct, scores, strict=True)):
        ended = list(responses.values())
        preference = worth.sum(1) - cfg.missing_end_penalty * torch.tensor([not end for end in ended]).float()
        if preference.max() > preference.min():
            ranked.append(Ranked(i, tree, ended, worth, preference))
    return ranked
