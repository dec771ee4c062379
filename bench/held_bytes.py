"""What a process holds of a training, in bytes by part, found by walking its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback, TrainerState, TrainingArguments

from rl.loop import RLBatches

PARTS = ("weights", "gradients", "optimizer", "frozen")


class HeldBytes(TrainerCallback):
    """Looks between two micro-batches of a later step: gradients are held then, and the optimizer has its state.

    frozen: models beside the one that is trained.
    """

    def __init__(self, frozen: Sequence[nn.Module] = ()) -> None:
        self.found: dict[str, int] = {}
        self.frozen = frozen

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
            self.found = held_bytes(model, optimizer, self.frozen)


def held_bytes(model: nn.Module, optimizer: Any, frozen: Sequence[nn.Module] = ()) -> dict[str, int]:
    """Bytes of this process's weights, of their gradients, of the optimizer (moments, and copies of the weights that it
    steps on), and of frozen models. What lies in one piece of memory counts once."""
    inner = optimizer.optimizer
    zero, base = (inner, inner.optimizer) if hasattr(inner, "optimizer") else (None, inner)
    weights = _weights(model)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    moments = [value for state in base.state.values() for value in state.values() if isinstance(value, Tensor)]
    if zero is not None:
        gradients += _sharded_gradients(zero)
        moments += list(base.state)
    others = {place: n for other in frozen for place, n in _weights(other).items()}
    found = {"weights": weights, "gradients": _pieces(gradients), "optimizer": _pieces(moments), "frozen": others}
    for part in ("optimizer", "frozen"):
        found[part] = {place: n for place, n in found[part].items() if place not in weights}
    return {part: sum(pieces.values()) for part, pieces in found.items()}


def frozen_beside(batches: Any) -> list[nn.Module]:
    """What only answers while these batches are learnt from: in reinforcement learning the reference and the reward
    models."""
    if not isinstance(batches, RLBatches):
        return []
    engine = batches.engine
    reference = engine.model.readings(engine.temperature)["reference"].models
    return [*reference, *(model for term in engine.scorer.terms for model in term.models)]


def _weights(model: nn.Module) -> dict[int, int]:
    """Whole, or this process's partitions of them."""
    return _pieces(w for p in model.parameters() for w in (p.data, getattr(p, "ds_tensor", p.data)))


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
