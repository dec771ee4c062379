"""Means over the entries that count, with the denominator of the whole optimizer step; and sums over ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def masked(values: Tensor, keep: Tensor) -> Tensor:
    """`values` where `keep` is true, exactly 0 elsewhere, whatever stood there (an infinity included)."""
    return torch.where(keep.bool(), values, torch.zeros((), dtype=values.dtype, device=values.device))


def masked_mean(values: Tensor, keep: Tensor, *, total: Tensor | float | None = None) -> Tensor:
    """Sum of the kept values over `total`, a scalar.

    values, keep: the same shape.  total: how many entries count in the whole optimizer step, all micro-batches and
    ranks together; by default those of this batch. Dividing by the own count instead gives short micro-batches too
    much weight. With nothing to count the result is an exact 0 that keeps its gradient graph.
    """
    return ratio(masked(values, keep).sum(), keep.bool().sum() if total is None else total)


def ratio(numerator: Tensor, denominator: Tensor | float) -> Tensor:
    """numerator / denominator, and an exact 0 with its gradient graph where the denominator is 0."""
    count = torch.as_tensor(denominator, dtype=numerator.dtype, device=numerator.device)
    return torch.where(count > 0, numerator, numerator * 0) / torch.where(count > 0, count, torch.ones_like(count))


def alone(x: Tensor) -> Tensor:
    """The sum over ranks where there is only this one."""
    return x


def over_ranks(x: Tensor) -> Tensor:
    """The sum over all ranks, without a gradient; the tensor itself where no process group is up."""
    if not (dist.is_available() and dist.is_initialized()):
        return x
    x = x.detach().clone()
    dist.all_reduce(x)
    return x
