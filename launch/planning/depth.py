"""Deep models are traced twice with few layers: what is kept grows by the same with every further layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedModel

FEW, MORE = 2, 4  # layers of the two traces

Sizes = tuple[int, ...]


def of_all_layers(models: Sequence[nn.Module], trace: Callable[[], Sizes]) -> Sizes:
    """Sizes of a trace of the models as they are; extrapolated where all their layers are alike."""
    stacks = list(_stacks(models))
    depths = {len(layers) for _, _, layers in stacks}
    if len(depths) != 1 or min(depths) <= MORE or not all(_alike(layers) for _, _, layers in stacks):
        return trace()
    (depth,) = depths
    # The larger first: transformers looks for the layers whose states it hands out once.
    more, few = (_with_layers(stacks, n, trace) for n in (MORE, FEW))
    return tuple(_at(depth, a, b) for a, b in zip(few, more, strict=True))


def _at(depth: int, few: int, more: int) -> int:
    """On the line through both. What shrinks with more layers shrinks no further than to `more`: of few layers the
    worst moment is another than of many."""
    return round(few + (more - few) / (MORE - FEW) * (depth - FEW)) if more > few else more


Stack = tuple[PreTrainedModel, str, nn.ModuleList]  # a backbone, and what it calls its layers


def _stacks(models: Sequence[nn.Module]) -> Iterator[Stack]:
    seen = {id(module): module for model in models for module in model.modules()}
    for module in seen.values():
        for name in ("layers", "h"):
            if isinstance(module, PreTrainedModel) and isinstance(getattr(module, name, None), nn.ModuleList):
                yield module, name, getattr(module, name)


def _alike(layers: nn.ModuleList) -> bool:
    sizes = [[(name, p.shape, p.requires_grad) for name, p in layer.named_parameters()] for layer in layers]
    return all(of_one == sizes[0] for of_one in sizes)


def _with_layers(stacks: Sequence[Stack], n: int, trace: Callable[[], Sizes]) -> Sizes:
    with _cut(stacks, n):
        return trace()


@contextmanager
def _cut(stacks: Sequence[Stack], n: int) -> Iterator[None]:
    """Inside, the models have their first n layers alone."""
    for backbone, name, layers in stacks:
        setattr(backbone, name, layers[:n])
        backbone.config.get_text_config().num_hidden_layers = n
    try:
        yield
    finally:
        for backbone, name, layers in stacks:
            setattr(backbone, name, layers)
            backbone.config.get_text_config().num_hidden_layers = len(layers)
