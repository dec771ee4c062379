"""What a stage gives the trainer: rows that collate themselves, and a function from model and batch to loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from models.layout import Batch


class Mean(NamedTuple):
    """A metric over micro-batches and processes: `total / count`, both summed before dividing."""

    total: Tensor | float
    count: Tensor | float


Metrics = dict[str, Mean]
Objective = Callable[[nn.Module, Batch, Tensor], tuple[Tensor, Metrics]]
"""`objective(model, batch, units) -> (loss, metrics)`. `units` (U,) is `batch["units"]` summed over the whole optimizer
step, all micro-batches and processes; the loss divides by it, so that losses of micro-batches add up."""


class Rows(Protocol):
    """A data set that collates its own rows. `batch["units"]` (U,) counts what the loss averages over."""

    def __len__(self) -> int: ...

    def collate(self, indices: Sequence[int]) -> Batch: ...
