"""Which rows make which optimizer step: a pure function of the seed, so a resumed run sees the same rows."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from models.errors import ConfigError, DataError
from models.layout import Batch
from models.objective import Rows

Row = TypeVar("Row")


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

    @property
    def rows(self) -> int:
        """Of a micro-batch."""
        return self.batch_size // (self.world * self.accumulation)


class ShuffledBatches:
    """Passes over rows, reshuffled each pass; the rows of a step are the same for any number of processes.

    parts: sizes of consecutive parts of the rows that are learnt one after the other, all passes of one part before
    the next; `spread` rows at the end belong to no part, they come evenly among all.
    """

    def __init__(
        self,
        rows: Rows,
        share: Share,
        *,
        steps: int,
        seed: int,
        shuffle: bool = True,
        parts: Sequence[int] = (),
        spread: int = 0,
    ) -> None:
        if len(rows) < share.batch_size:
            raise DataError(
                f"{len(rows)} rows are fewer than trainer.batch_size={share.batch_size}; lower it or bring more data"
            )
        self.rows, self.share, self.steps, self.seed, self.shuffle = rows, share, steps, seed, shuffle
        self.start_step = 0
        self.sequence = in_sequence(parts, spread, steps * share.batch_size, seed, shuffle) if parts else None

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
        if self.sequence is not None:
            return self.sequence[step * self.share.batch_size : (step + 1) * self.share.batch_size]
        per_pass = steps_per_pass(len(self.rows), self.share.batch_size)
        epoch, position = divmod(step, per_pass)
        first = position * self.share.batch_size
        return self._order(epoch)[first : first + self.share.batch_size].tolist()

    def _order(self, epoch: int) -> Tensor:
        if not self.shuffle:
            return torch.arange(len(self.rows))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(len(self.rows), generator=generator)


def in_sequence(parts: Sequence[int], spread: int, total: int, seed: int, shuffle: bool) -> list[int]:
    """`total` row indices: whole passes and a rest of each part in turn, in proportion to its size, with the spread
    rows, in proportion too, at evenly random places."""
    rng = random.Random(seed)
    bounds = [0, *accumulate([*parts, spread])]
    ends = [round(total * bound / bounds[-1]) for bound in bounds]
    order = [
        _passes(range(first, last), end - start, rng, shuffle)
        for first, last, start, end in zip(bounds, bounds[1:], ends, ends[1:], strict=False)
    ]
    among = set(rng.sample(range(total), len(order[-1])))
    in_turn, everywhere = iter([i for part in order[:-1] for i in part]), iter(order[-1])
    return [next(everywhere if place in among else in_turn) for place in range(total)]


def _passes(rows: range, n: int, rng: random.Random, shuffle: bool) -> list[int]:
    order: list[int] = []
    while len(order) < n:
        order += rng.sample(rows, len(rows)) if shuffle else rows
    return order[:n]


class StreamedBatches:
    """Batches of rows that are read as they are needed, shuffled within a buffer; nothing else is held in memory.

    one_pass: reads the data once from its start. A run that goes on reads again, without using them, what it has seen.
    """

    def __init__(
        self,
        one_pass: Callable[[], Iterator[Row]],
        collate: Callable[[Sequence[Row]], Batch],
        share: Share,
        *,
        steps: int,
        seed: int,
        buffer: int,
    ) -> None:
        self.one_pass, self.collate, self.share, self.steps = one_pass, collate, share, steps
        self.seed, self.buffer = seed, buffer
        self.start_step = 0

    def __len__(self) -> int:
        return self.steps * self.share.accumulation

    def __iter__(self) -> Iterator[Batch]:
        rows = self._shuffled()
        for step in range(self.steps):
            of_step = list(islice(rows, self.share.batch_size))
            if step < self.start_step:
                continue
            for micro in range(self.share.accumulation):
                part = self.share.rank * self.share.accumulation + micro
                yield self.collate(of_step[part :: self.share.world * self.share.accumulation])

    def _shuffled(self) -> Iterator[Row]:
        rng = random.Random(self.seed)
        held: list[Row] = []
        for row in self._endless():
            if len(held) < self.buffer:
                held.append(row)
                continue
            place = rng.randrange(len(held))
            held[place], row = row, held[place]
            yield row

    def _endless(self) -> Iterator[Row]:
        while True:
            empty = True
            for row in self.one_pass():
                empty = False
                yield row
            if empty:
                raise DataError("the stream holds no row to train on")


def steps_per_pass(n_rows: int, batch_size: int) -> int:
    """Whole batches in one pass over the rows."""
    return max(1, n_rows // batch_size)
