"""Which rows make which optimizer step: a pure function of the seed, so a resumed run sees the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.errors import ConfigError, DataError
from models.layout import Batch
from models.objective import Rows


class Batches(Protocol):
    """What a trainer consumes: micro-batches of all steps, in order, from `start_step` on."""

    start_step: int

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class Share:
    """This process's part of each step: `accumulation` micro-batches of `batch_size / (world · accumulation)` rows."""

    batch_size: int
    accumulation: int = 1
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        parts = self.world * self.accumulation
        if self.batch_size % parts:
            raise ConfigError(
                f"trainer.batch_size={self.batch_size}: expected a multiple of processes × trainer.accumulation = "
                f"{self.world} × {self.accumulation}"
            )


class ShuffledBatches:
    """Passes over rows, reshuffled each pass; the rows of a step are the same for any number of processes."""

    def __init__(self, rows: Rows, share: Share, *, steps: int, seed: int, shuffle: bool = True) -> None:
        if len(rows) < share.batch_size:
            raise DataError(
                f"{len(rows)} rows are fewer than trainer.batch_size={share.batch_size}; lower it or bring more data"
            )
        self.rows, self.share, self.steps, self.seed, self.shuffle = rows, share, steps, seed, shuffle
        self.start_step = 0

    def __len__(self) -> int:
        return self.steps * self.share.accumulation

    def __iter__(self) -> Iterator[Batch]:
        for step in range(self.start_step, self.steps):
            indices = self.step_indices(step)
            for micro in range(self.share.accumulation):
                part = self.share.rank * self.share.accumulation + micro
                yield self.rows.collate(indices[part :: self.share.world * self.share.accumulation])

    def step_indices(self, step: int) -> list[int]:
        """Rows of one step, over all processes. A last incomplete batch of a pass is left out of that pass."""
        per_pass = steps_per_pass(len(self.rows), self.share.batch_size)
        epoch, position = divmod(step, per_pass)
        first = position * self.share.batch_size
        return self._order(epoch)[first : first + self.share.batch_size].tolist()

    def _order(self, epoch: int) -> Tensor:
        if not self.shuffle:
            return torch.arange(len(self.rows))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(len(self.rows), generator=generator)


def steps_per_pass(n_rows: int, batch_size: int) -> int:
    """Whole batches in one pass over the rows."""
    return max(1, n_rows // batch_size)
