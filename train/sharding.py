"""DeepSpeed ZeRO: what is sharded over the processes. All other numbers derive from the stage's configuration."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from models.errors import ConfigError, ResourceError
from train.processes import rank


@dataclass
class Sharding:
    """conf/deepspeed/*.yaml"""

    stage: int | None = None  # None: no DeepSpeed; 1 shards optimizer state, 2 gradients too, 3 weights too

    def __post_init__(self) -> None:
        if self.stage not in (None, 1, 2, 3):
            raise ConfigError(f"deepspeed.stage={self.stage}: expected 1, 2, 3 or null")


def deepspeed_config(sharding: Sharding, bf16: bool, max_grad_norm: float) -> dict[str, Any] | None:
    """DeepSpeed's own configuration; `auto` numbers are filled in by transformers from the training arguments."""
    if sharding.stage is None:
        return None
    _check_compiler()
    return {
        "zero_optimization": {
            "stage": sharding.stage,
            "overlap_comm": False,
            "stage3_gather_16bit_weights_on_model_save": sharding.stage == 3,
        },
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": max_grad_norm,
        "bf16": {"enabled": bf16},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
    }


def whole_weights(model: nn.Module) -> dict[str, Tensor] | None:
    """The weights of a model that ZeRO-3 has sharded, in the main process's memory; None of one that is whole.

    Every process must call it: they gather one weight at a time.
    """
    sharded = {name: p for name, p in model.named_parameters() if hasattr(p, "ds_id")}
    if not sharded:
        return None
    import deepspeed  # noqa: PLC0415  seconds, and only where it is in use

    found = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if name in sharded:
            with deepspeed.zero.GatheredParameters([value]):
                found[name] = value.detach().cpu().clone() if rank() == 0 else None
        elif not hasattr(value, "ds_id"):  # a buffer; what is left are second names of tied weights
            found[name] = value
    return found


def _check_compiler() -> None:
    missing = [tool for tool in ("g++", "ninja") if shutil.which(tool) is None]
    if missing:
        raise ResourceError(
            f"DeepSpeed compiles an operator on its first start and needs {' and '.join(missing)} on the PATH; "
            "install it, activate the virtual environment, or run with deepspeed=none"
        )
