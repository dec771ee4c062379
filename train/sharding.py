"""DeepSpeed ZeRO: what is sharded over the processes, and where it lies. All other numbers derive from the stage's
configuration."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

import torch

from models.errors import ConfigError, ResourceError
from train.processes import world_size

DEVICE, CPU, NVME = "device", "cpu", "nvme"


@dataclass
class Sharding:
    """conf/deepspeed/*.yaml"""

    stage: int | None = None  # None: no DeepSpeed; 1 shards optimizer state, 2 gradients too, 3 weights too
    optimizer_on: str = DEVICE  # where optimizer state lies and steps: device, cpu, or nvme with stage 3
    weights_on: str = DEVICE  # where the shards of weights wait for their layer, with stage 3: device, cpu or nvme
    nvme_path: str | None = None  # folder on a local disk, where something lies on nvme
    bucket: int = 50_000_000  # numbers that are reduced or gathered at once: more is faster and takes memory
    whole_below: int = 100_000  # with stage 3, weights of fewer numbers than this stay whole on every process
    overlap: bool = False  # communicate while computing, at the price of a second bucket

    def __post_init__(self) -> None:
        if self.stage not in (None, 1, 2, 3):
            raise ConfigError(f"deepspeed.stage={self.stage}: expected 1, 2, 3 or null")
        for name in ("optimizer_on", "weights_on"):
            if getattr(self, name) not in (DEVICE, CPU, NVME):
                raise ConfigError(f"deepspeed.{name}={getattr(self, name)}: expected {DEVICE}, {CPU} or {NVME}")
        if self.stage is None and self.offloads:
            raise ConfigError("deepspeed.optimizer_on and weights_on: nothing is offloaded without a deepspeed.stage")
        if self.stage in (1, 2) and (self.weights_on != DEVICE or self.optimizer_on == NVME):
            raise ConfigError(
                f"deepspeed.stage={self.stage} offloads the optimizer to the cpu alone: deepspeed.weights_on="
                f"{self.weights_on}, optimizer_on={self.optimizer_on}; use deepspeed=zero3_offload or zero_infinity"
            )
        if (NVME in (self.optimizer_on, self.weights_on)) != (self.nvme_path is not None):
            raise ConfigError(
                f"deepspeed.nvme_path={self.nvme_path}: expected a folder on a local disk where something lies on "
                "nvme, and null where nothing does"
            )
        for name in ("bucket", "whole_below"):
            if getattr(self, name) < 0 or (name == "bucket" and self.bucket == 0):
                raise ConfigError(f"deepspeed.{name}={getattr(self, name)}: expected a number above 0")

    @property
    def offloads(self) -> bool:
        """Whether anything lies elsewhere than on the device that trains."""
        return (self.optimizer_on, self.weights_on) != (DEVICE, DEVICE)

    @property
    def name(self) -> str:
        """As `deepspeed=` has it."""
        if self.stage is None:
            return "none"
        if self.nvme_path is not None:
            return "zero_infinity"
        return f"zero{self.stage}" + ("_offload" if self.offloads else "")

    def here(self) -> Sharding:
        """What of it has a meaning in this process: one process alone has nobody to share with, and without a GPU
        nothing to offload from. Raises ResourceError where the machine lacks what DeepSpeed compiles with."""
        if self.stage is None or (world_size() == 1 and not (self.offloads and torch.cuda.is_available())):
            return Sharding()
        _check_compiler()
        if self.nvme_path is not None:
            _check_libaio()
        return self


def deepspeed_config(sharding: Sharding, bf16: bool, max_grad_norm: float) -> dict[str, Any] | None:
    """DeepSpeed's own configuration; `auto` numbers are filled in by transformers from the training arguments.

    bf16: autocast, as without DeepSpeed. Its own bf16 mode would hold the weights in bfloat16, and transformers would
    then round all floats of a batch to it, counts and reference log-probabilities among them.
    """
    if sharding.stage is None:
        return None
    return {
        "zero_optimization": _zero_optimization(sharding),
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": max_grad_norm,
        "torch_autocast": {"enabled": bf16, "dtype": "bfloat16"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # fused AdamW is as fast on a CPU, and its steps are those on the device
        "steps_per_print": 1_000_000_000,
    }


def _zero_optimization(sharding: Sharding) -> dict[str, Any]:
    found: dict[str, Any] = {
        "stage": sharding.stage,
        "overlap_comm": sharding.overlap,
        "reduce_bucket_size": sharding.bucket,
        "allgather_bucket_size": sharding.bucket,
    }
    if sharding.stage == 3:
        found["stage3_prefetch_bucket_size"] = sharding.bucket
        found["stage3_param_persistence_threshold"] = sharding.whole_below
    for part, place in (("offload_optimizer", sharding.optimizer_on), ("offload_param", sharding.weights_on)):
        if place != DEVICE:
            found[part] = {"device": place, "pin_memory": torch.cuda.is_available()}
        if place == NVME:
            found[part]["nvme_path"] = sharding.nvme_path
    return found


def _check_compiler() -> None:
    missing = [tool for tool in ("g++", "ninja") if shutil.which(tool) is None]
    if missing:
        raise ResourceError(
            f"DeepSpeed compiles an operator on its first start and needs {' and '.join(missing)} on the PATH; "
            "install it, activate the virtual environment, or run with deepspeed=none"
        )


def _check_libaio() -> None:
    from deepspeed.ops.op_builder import AsyncIOBuilder  # noqa: PLC0415  seconds, and only where it is in use

    if not AsyncIOBuilder().is_compatible(verbose=False):
        raise ResourceError(
            "deepspeed=zero_infinity reads and writes the disk through libaio, which is not installed with its "
            "headers; install libaio-dev (libaio-devel), or use deepspeed=zero3_offload"
        )
