"""Rows of one size, as the batches that each stage learns from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from instruct.supervised import SupervisedRows
from models.generation import Sample
from models.layout import Batch, LayoutConfig, Tree, collate, collate_rankings
from models.scorer import AXES
from reward.judged_pairs import Labels
from rl.config import RLConfig
from rl.experience import Experience
from rl.pairs import PreferenceRows
from rl.preference_loss import KTO
from rl.rollout import Answers, Question, Rollout
from stages.ppo import PPOStage


@dataclass(frozen=True)
class RowShape:
    """Tokens of every row: a prompt, and responses of one length, every token of which is a target."""

    prompt: int
    response: int
    responses: int = 1

    def __str__(self) -> str:
        several = f"{self.responses} responses of {self.response}" if self.responses > 1 else f"{self.response} learnt"
        return f"{self.prompt} + {several} tokens"

    @property
    def tokens(self) -> int:
        return self.prompt + self.responses * self.response

    def of(self, responses: int) -> RowShape:
        """The same with so many responses."""
        return replace(self, responses=responses)

    @property
    def longest(self) -> int:
        """Tokens of a prompt with one response."""
        return self.prompt + self.response

    def tree(self, number: int = 0) -> Tree:
        """Unlike its neighbours, as are its responses."""
        return Tree.of([1 + number % 2] * self.prompt, [[k + 1] * self.response for k in range(self.responses)])


BatchOf = Callable[[int], Batch]  # a micro-batch of so many rows


def supervised_rows(shape: RowShape, layout: LayoutConfig) -> BatchOf:
    return lambda n: SupervisedRows([shape.tree()] * n, layout, shape.longest).collate(range(n))


def ranking_rows(shape: RowShape, layout: LayoutConfig) -> BatchOf:
    """Rankings that one judge has labelled on every axis."""

    def collated(n: int) -> Batch:
        batch = collate_rankings([shape.tree()] * n, layout)
        order = torch.arange(shape.responses, dtype=torch.float32).flip(0).repeat(n)
        values = order[None, :, None].expand(1, -1, len(AXES)).contiguous()
        labels = Labels(values, torch.ones_like(values, dtype=torch.bool), batch["tree"])
        units = torch.full((len(AXES),), float(n))
        return {**batch, "labels": labels.values, "labelled": labels.known, "prompt": batch["tree"], "units": units}

    return collated


def preference_rows(shape: RowShape, layout: LayoutConfig, loss: str) -> BatchOf:
    """Rankings, or under KTO responses with a label each."""

    def ranked(n: int) -> Batch:
        preferences = [torch.arange(shape.responses, dtype=torch.float32)] * n
        return PreferenceRows([shape.tree()] * n, preferences, layout, shape.longest).collate(range(n))

    def labelled(n: int) -> Batch:
        batch = collate([shape.tree()] * n, bin_tokens=layout.bin_tokens)
        labels = torch.ones(n * shape.responses)
        units = torch.tensor([float(len(labels)), 0.0, float(n)])
        return {
            **batch,
            "labels": labels,
            "reference": torch.zeros_like(labels),
            "progress": torch.ones(()),
            "units": units,
        }

    return labelled if loss == KTO else ranked


def rollout_rows(shape: RowShape, cfg: PPOStage) -> BatchOf:
    """Of so many responses; whole groups of them, and pretraining text where the loss has it."""

    def collated(n: int) -> Batch:
        n_trees = n // shape.responses
        found = experience_of(shape, cfg.rl, n_trees)
        batch = found.collate(range(n_trees), cfg.layout, cfg.rl.kind.aggregation, cfg.rl.max_new_tokens)
        batch |= {"first": torch.tensor(False), "kl_coef": torch.tensor(cfg.rl.kl.coef)}
        if not cfg.rl.ptx_coef:
            return {**batch, "units": torch.cat([batch["units"], torch.zeros(1)])}
        share = max(1, round(cfg.rl.ptx_batch_size * n / cfg.trainer.batch_size))
        text = supervised_rows(RowShape(1, shape.longest - 1), cfg.layout)(share)
        units = torch.cat([batch["units"], text.pop("units")])
        return {**batch, "units": units, **{f"ptx_{name}": value for name, value in text.items()}}

    return collated


def experience_of(shape: RowShape, cfg: RLConfig, n_trees: int) -> Experience:
    """What was sampled for so many prompts, all numbers 0."""
    n, critics = n_trees * shape.responses, 2 if cfg.constraint.limit is not None else 1
    plane = torch.zeros(n, shape.response)
    tokens = {"logprobs": plane, "ref_logprobs": plane, "entropy": plane, "sampler_logprobs": plane}
    values: dict[str, Any] = {"values": torch.zeros(*plane.shape, critics)} if cfg.kind.critic else {}
    answers = [
        Answers(Question(i, (), [1] * shape.prompt), [Sample(ids, True, []) for ids in shape.tree(i).responses])
        for i in range(n_trees)
    ]
    keep = torch.ones_like(plane, dtype=torch.bool)
    rollout = Rollout(answers, torch.zeros(n, 1), tokens | values, None, keep)
    return Experience(
        rollout, plane, values.get("values"), torch.ones_like(plane), torch.zeros(n), torch.zeros(n), None
    )
