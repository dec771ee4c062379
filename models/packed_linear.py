"""Weights in oneDNN's own order while a CPU samples: products of a few rows with them are faster there.

The operators are those that torch.compile uses for frozen weights; where a build has none, nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from models.partitioned import is_partitioned

MOST_BYTES = 1 << 30  # of copies that exist meanwhile
WORTH = 32  # steps that gain what the copies cost


@contextmanager
def packed_linear(model: nn.Module, rows: int, steps: int) -> Iterator[None]:
    """The same layers with the same values, packed for inputs of so many rows; low-rank updates are added up in them.

    The weights may not change inside.
    """
    packed = _packable(model) if steps >= WORTH and _offered() else []
    for layer, weight, bias in packed:
        layer.forward = _Packed(weight, bias, rows)
    try:
        yield
    finally:
        for layer, _, _ in packed:
            del layer.forward


class _Packed:
    """A layer's forward."""

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int) -> None:
        self.weight, self.bias = torch.ops.mkldnn._reorder_linear_weight(weight, rows), bias

    def __call__(self, inputs: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(inputs, self.weight, self.bias, "none", [], "")


def _offered() -> bool:
    built = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return built and not torch.is_autocast_enabled("cpu")


def _packable(model: nn.Module) -> list[tuple[nn.Module, Tensor, Tensor | None]]:
    """Layers that are a product with a matrix, with it and their bias; none where all would be too large."""
    inner = {
        id(part) for m in model.modules() if isinstance(m, BaseTunerLayer) for part in m.modules() if part is not m
    }
    layers = [m for m in model.modules() if id(m) not in inner and type(m) in (nn.Linear, LoraLinear)]
    if sum(_base(layer).weight.nbytes for layer in layers) > MOST_BYTES:
        return []
    return [(layer, matrix, _base(layer).bias) for layer in layers if (matrix := _matrix(layer)) is not None]


def _base(layer: nn.Module) -> nn.Linear:
    return layer.base_layer if isinstance(layer, LoraLinear) else layer


def _matrix(layer: nn.Module) -> Tensor | None:
    """What a layer multiplies with; None where that is partitioned, elsewhere, of another type, or not a matrix."""
    base = _base(layer)
    weight = base.weight.detach()
    whole = weight.device.type == "cpu" and weight.dtype == torch.float32 and not is_partitioned(base.weight)
    if type(base) is not nn.Linear or not whole:
        return None
    if base is layer or layer.disable_adapters or layer.merged:
        return weight
    if any(name in layer.lora_variant for name in layer.active_adapters):
        return None
    for name in layer.active_adapters:
        if name in layer.lora_A:
            weight = weight + layer.get_delta_weight(name).detach()
    return weight
