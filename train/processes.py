"""The processes of one stage: who is main, how they meet, how they agree, and which of them says why they failed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState

T = TypeVar("T")


def rank() -> int:
    """0 on the process that writes."""
    return int(_launched().get("RANK", "0"))


def world_size() -> int:
    """How many processes run this stage, as its launcher says."""
    return int(_launched().get("WORLD_SIZE", "1"))


def _launched() -> Mapping[str, str]:
    """The environment, in which what srun alone says stands in torchrun's words too, the ones that libraries read."""
    if "RANK" not in os.environ:
        os.environ.update(srun_place(os.environ))
    return os.environ


def srun_place(environment: Mapping[str, str]) -> dict[str, str]:
    """RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT of a task that srun started beside
    others; nothing of any other process, such as a batch script, which Slurm tells of a job's tasks too."""
    if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) == 1:
        return {}
    gpus = [gpu for gpu in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    here = int(environment["SLURM_LOCALID"])
    first_host = re.match(r"([^,\[]+)(?:\[(\d+))?", environment["SLURM_STEP_NODELIST"]).groups(default="")
    alone = environment["SLURM_STEP_NUM_NODES"] == "1"
    job = int(environment["SLURM_JOB_ID"]) * 31 + int(environment["SLURM_STEP_ID"])
    tasks_here = re.split(r"\D", environment["SLURM_STEP_TASKS_PER_NODE"])[0]  # "4(x2)": 4 on each of two nodes
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": str(here % len(gpus) if gpus else here),  # a task that sees one GPU alone calls it 0
        "LOCAL_WORLD_SIZE": tasks_here,
        "MASTER_ADDR": environment.get("MASTER_ADDR", "127.0.0.1" if alone else "".join(first_host)),
        "MASTER_PORT": environment.get("MASTER_PORT", str(10_000 + job % 20_000)),  # below those given out at random
    }


def join(patience: float) -> None:
    """Meet the other processes, where there are any; on machines without a GPU through gloo.

    patience: seconds that any of them waits for another before it gives up.
    """
    if world_size() > 1 and not dist.is_initialized():
        gpu = torch.cuda.is_available()
        PartialState(cpu=not gpu, backend=None if gpu else "gloo", timeout=timedelta(seconds=patience))


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


def any_of(mine: bool) -> bool:
    """Whether it is so on any process."""
    if world_size() == 1:
        return mine
    flag = torch.tensor(float(mine), device=PartialState().device)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)


def barrier() -> None:
    """Wait for the other processes."""
    if world_size() > 1:
        dist.barrier()


def met() -> bool:
    """Whether this process has met the others; one that is alone has."""
    return world_size() == 1 or dist.is_initialized()


def speaks_for_all() -> bool:
    """Whether it is this process that says why the run fails: of those that have met the first that asks, before that
    the main one."""
    if world_size() == 1 or not met():
        return rank() == 0
    try:
        first = dist.distributed_c10d._get_default_store().compare_set("failed", "", str(rank()))
    except RuntimeError:  # the main process held the store; it has gone, and has said why
        return False
    return first.decode() == str(rank())
