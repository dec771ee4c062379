"""What a process holds of a training, in bytes by part, found by walking its tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback, TrainerState, TrainingArguments

PARTS = ("weights", "gradients", "optimizer")


class HeldBytes(TrainerCallback):
    """Looks between two micro-batches of a later step: gradients are held then, and the optimizer has its state."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}

    def on_substep_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        *_: Any,
        model: Any = None,
        optimizer: Any = None,
        **__: Any,
    ) -> None:
        if state.global_step == 1:
            self.found = held_bytes(model, optimizer)


def held_bytes(model: nn.Module, optimizer: Any) -> dict[str, int]:
    """Bytes of this process's weights, of their gradients, and of the optimizer: moments and copies of the weights that
    it steps on. What lies in one piece of memory counts once."""
    inner = optimizer.optimizer
    zero, base = (inner, inner.optimizer) if hasattr(inner, "optimizer") else (None, inner)
    weights = _pieces(w for p in model.parameters() for w in (p.data, getattr(p, "ds_tensor", p.data)))
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    moments = [value for state in base.state.values() for value in state.values() if isinstance(value, Tensor)]
    if zero is not None:
        gradients += _sharded_gradients(zero)
        moments += list(base.state)
    found = {"weights": weights, "gradients": _pieces(gradients), "optimizer": _pieces(moments)}
    found["optimizer"] = {place: n for place, n in found["optimizer"].items() if place not in weights}
    return {part: sum(pieces.values()) for part, pieces in found.items()}


def _sharded_gradients(zero: Any) -> list[Tensor]:
    """Where ZeRO keeps them between micro-batches: stage 3 in one piece, stages 1 and 2 in lists by group."""
    if (flat := getattr(zero, "grad_partitions_flat_buffer", None)) is not None:
        return [flat]
    groups = [*zero.averaged_gradients.values(), *getattr(zero, "all_grad_tensors", {}).values()]
    return [gradient for group in groups if group is not None for gradient in group if gradient is not None]


def _pieces(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Bytes of the memory behind the tensors, by its address."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return {storage.data_ptr(): storage.nbytes() for storage in storages if storage.nbytes()}
