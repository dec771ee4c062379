"""The last layer's feed-forward network, computed only where its result is read.

A scorer reads one position of each response, a policy the positions that predict a target: in the other positions the
last layer has nothing to do but to attend.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from models.virtual_tokens import virtual_tokens

WORTH = 0.8  # share of read positions above which nothing is gained


@contextmanager
def feed_forward_only_at(model: nn.Module, places: Tensor, n_positions: int) -> Iterator[None]:
    """Inside, the last layer of `model` leaves out what no later layer reads; its other outputs are meaningless.

    places: (N,) flat index of the positions that are read, each once. A model that has no such network, or that will
    compute its layers a second time, runs as ever.
    """
    network = _last_feed_forward(model)
    if network is None or len(places) > WORTH * n_positions:
        yield
        return

    shape: list[int] = []

    def narrow(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        shape[:] = given[0].shape
        return (given[0].flatten(0, 1).index_select(0, places)[None], *given[1:])

    def widen(_: nn.Module, __: tuple[Tensor, ...], found: Tensor) -> Tensor:
        return found.new_zeros(n_positions, shape[-1]).index_copy(0, places, found[0]).view(shape)

    hooks = [network.register_forward_pre_hook(narrow), network.register_forward_hook(widen)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _last_feed_forward(model: nn.Module) -> nn.Module | None:
    base = model.base_model
    layers = getattr(base, "layers", getattr(base, "h", None))
    network = getattr(layers[-1], "mlp", None) if layers else None
    if network is None or hasattr(network, "experts"):  # which answers with more than states
        return None
    recomputed = model.training and getattr(model, "is_gradient_checkpointing", False)
    return None if recomputed or virtual_tokens(model) is not None else network
