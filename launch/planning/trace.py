"""What one micro-batch keeps in memory, found by running it on tensors without data.

Model, batch and objective are the stage's own. The weights are PyTorch's fake tensors, which have a shape, a type and a
storage of a known size, and no content: 70 B of them take no room, and what autograd keeps for the backward pass is
counted where a formula of it would be of another training loop than ours.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any, NamedTuple

import torch
from accelerate.utils import convert_outputs_to_fp32
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models import attention, logprobs
from models.layout import Batch
from models.objective import Objective


class Footprint(NamedTuple):
    """Bytes beside weights, gradients and optimizer state."""

    activations: int  # kept for the backward pass where the forward pass ends
    transient: int  # what else is held at the worst moment of both passes


class Held(TorchDispatchMode):
    """The bytes that operations made and that somebody still holds: `now`, and at most so far, `peak`.

    known: places of tensors that were there before; views of them are no new bytes. gathered: copies of them in another
    type are none either, as weights that are gathered in that type have none.
    """

    def __init__(self, known: set[int], *, gathered: bool = False) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known, self._held, self._weights = known, set(), set(known) if gathered else set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if self._weights and func is torch.ops.aten._to_copy.default and _place(args[0]) in self._weights:
            self._known.add(_place(found))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor) and (place := _place(tensor)) not in self._known and place not in self._held:
                self._add(tensor.untyped_storage())
        return found

    def _add(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        self._held.add(place)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, place, size)

    def _drop(self, place: int, size: int) -> None:
        self._held.discard(place)
        self.now -= size


class Saved:
    """The bytes that autograd keeps for the backward pass, each storage once. known: places that do not count."""

    def __init__(self, known: set[int]) -> None:
        self.n_bytes = 0
        self._known, self._seen = known, set()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Inside, what is saved is counted."""
        with saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield

    def _pack(self, tensor: Tensor) -> Tensor:
        if (place := _place(tensor)) not in self._known and place not in self._seen:
            storage = tensor.untyped_storage()
            self._seen.add(place)
            self.n_bytes += storage.nbytes()
            weakref.finalize(storage, self._seen.discard, place)  # another may lie there afterwards
        return tensor


def footprint(model: nn.Module, objective: Objective, batch: Batch, *, gathered: bool = False) -> Footprint:
    """Of a micro-batch that is not the first of its step, so that gradients are there to be added to.

    gathered: weights come in the type that they are computed with.
    """
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    known = places(resident(model), batch.values())
    saved = Saved(known)
    with Held(known, gathered=gathered) as held:
        with saved.counting():
            loss, _ = objective(model, batch, batch["units"])
        loss.backward()
    return Footprint(saved.n_bytes, max(0, held.peak - saved.n_bytes))


def forward_peak(models: Sequence[nn.Module], work: Callable[[Batch], object], batch: Batch) -> tuple[int]:
    """The most bytes beside the models' weights while `work(batch)` runs without a graph."""
    known = places(batch.values(), *map(resident, models))
    with torch.no_grad(), Held(known) as held:
        work(batch)
    return (held.peak,)


def resident(model: nn.Module) -> list[Tensor]:
    """Weights, their gradients and buffers."""
    parameters = list(model.parameters())
    return [*parameters, *(p.grad for p in parameters if p.grad is not None), *model.buffers()]


def places(*tensors: Iterable[Tensor]) -> set[int]:
    """Where the tensors lie."""
    return {_place(tensor) for some in tensors for tensor in some}


def with_autocast(model: nn.Module) -> None:
    """Let the model compute in bfloat16 from float32 weights, as accelerate prepares it for trainer.bf16."""
    forward = torch.autocast("cpu", dtype=torch.bfloat16)(model.forward.__func__)
    model.forward = MethodType(convert_outputs_to_fp32(forward), model)


@contextmanager
def kernels_of(device: str) -> Iterator[None]:
    """Inside, the model is computed as on this kind of device, and attention keeps what its kernel there keeps;
    operations have chosen those of a CPU."""
    if device == "cpu":
        yield
        return
    kept = nn.functional.scaled_dot_product_attention, attention.WIDENED_ON, logprobs.PARTED_ON
    nn.functional.scaled_dot_product_attention, attention.WIDENED_ON, logprobs.PARTED_ON = _fused_attention, (), ()
    try:
        yield
    finally:
        nn.functional.scaled_dot_product_attention, attention.WIDENED_ON, logprobs.PARTED_ON = kept


def _fused_attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    return _FusedAttention.apply(query, key, value)


class _FusedAttention(torch.autograd.Function):
    """The sizes of a fused kernel (Dao et al. 2022): it keeps its inputs, its output and a norm of each row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        found = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, found, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return found

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
