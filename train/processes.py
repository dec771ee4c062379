"""The processes of one stage: who is main, and how they agree."""

from __future__ import annotations

import os
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState

T = TypeVar("T")


def rank() -> int:
    """0 on the process that writes."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes run this stage, as its launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join() -> None:
    """Meet the other processes, where there are any; on machines without a GPU through gloo."""
    if world_size() > 1 and not dist.is_initialized():
        PartialState(cpu=not torch.cuda.is_available(), backend=None if torch.cuda.is_available() else "gloo")


def from_main(value: T) -> T:
    """The main process's value, on every process."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gathered(value: T) -> list[T]:
    """The value of each process, on every process."""
    if world_size() == 1:
        return [value]
    box: list[T] = [value] * world_size()
    dist.all_gather_object(box, value)
    return box


def barrier() -> None:
    """Wait for the other processes."""
    if world_size() > 1:
        dist.barrier()
