"""How far a training is, for what changes on the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch

from models.layout import Batch


class _Steps(Protocol):
    start_step: int

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


class Stepped:
    """The micro-batches of a training, each with its `progress` (): the share of the steps done before its own.

    A function of the step alone, so a training that goes on from a checkpoint sees what an uninterrupted one sees.
    """

    def __init__(self, batches: _Steps, accumulation: int) -> None:
        self.batches, self.accumulation = batches, accumulation

    @property
    def start_step(self) -> int:
        return self.batches.start_step

    @start_step.setter
    def start_step(self, step: int) -> None:
        self.batches.start_step = step

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        n_steps = len(self) // self.accumulation
        for number, batch in enumerate(self.batches):
            step = self.start_step + number // self.accumulation
            yield {**batch, "progress": torch.tensor(step / n_steps)}
