"""What a checkpoint holds of a training: every trained weight, and Adam's moments of it, whole and under its name.

A checkpoint so knows nothing of the processes that made it: any number of them goes on from it, at any level of ZeRO.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from models.errors import ArtifactError
from models.partitioned import is_partitioned
from train.processes import rank

WEIGHT, STEP, MOMENTS = "weight", "step", ("exp_avg", "exp_avg_sq")
FILE_BYTES = 1 << 31  # of tensors in a file: what the main process holds of them at once
Read = dict[str, Any]  # open files by the names of the tensors that they hold


def save_state(folder: Path, model: nn.Module, optimizer: Any = None) -> None:
    """Write trained weights and, where there is an optimizer, its moments. Every process must call it: they gather one
    tensor at a time, and the main one writes."""
    held: dict[str, Tensor] = {}
    number = 0
    for key, value in _whole_tensors(model, optimizer):
        if rank() != 0:
            continue
        held[key] = value.detach().to("cpu", copy=True).contiguous()
        if sum(tensor.nbytes for tensor in held.values()) >= FILE_BYTES:
            _write(folder, number, held)
            number, held = number + 1, {}
    if held:
        _write(folder, number, held)


@torch.no_grad()
def load_weights(folder: Path, model: nn.Module) -> None:
    """Put the folder's weights into the model. Every process must call it. Raises ArtifactError where one lacks."""
    with _opened(folder) as read:
        for name, weight in trained(model):
            key = f"{WEIGHT}:{name}"
            if key not in read:
                raise ArtifactError(f"{folder}: holds no weight {name}; it is of another model or adapter")
            with _gathered([weight]):
                weight.copy_(read[key].get_tensor(key))


@torch.no_grad()
def load_moments(folder: Path, model: nn.Module, optimizer: Any) -> None:
    """Put the folder's moments into the optimizer that is to train, whoever wraps it. Raises ArtifactError where they
    would have to go to a disk."""
    zero = _zero_of(optimizer)
    if getattr(zero, "swap_optimizer", False):
        raise ArtifactError(
            f"{folder}: deepspeed=zero_infinity cannot go on from a checkpoint; go on with deepspeed=zero3_offload, or "
            "begin again with resume=restart"
        )
    with _opened(folder) as read:
        if zero is None:
            _load_plain(read, model, optimizer)
        elif any(key.startswith(STEP) for key in read):
            _begin_moments(read, zero)
            for name, weight in trained(model):
                _load_shard(read, name, weight, zero)
            if not _partitions_weights(zero):
                zero.update_lp_params()


@contextmanager
def savable(model: nn.Module) -> Iterator[dict[str, Tensor] | None]:
    """Inside, the main process can save the model: with the weights that are yielded in place of the model's own, where
    it does not hold them. Every process must enter. An adapter is whole meanwhile; what is below it stays as it is."""
    if hasattr(model, "adapter"):
        with _gathered([weight for _, weight in trained(model)]):
            yield None
    elif any(map(is_partitioned, model.parameters())):
        yield _whole_weights(model)
    else:
        yield None


def _whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """In the main process's memory, gathered one at a time."""
    found, seen = {}, set()
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) in seen:  # the second name of a tied weight
            continue
        seen.add(id(value))
        with _gathered([value]):
            if rank() == 0:
                found[name] = value.detach().to("cpu", copy=True)
    return found


def trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The weights that a training changes, each once."""
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


def _whole_tensors(model: nn.Module, optimizer: Any) -> Iterator[tuple[str, Tensor]]:
    for name, weight in trained(model):
        for part, value in _parts(weight, optimizer):
            yield f"{part}:{name}", value


def _parts(weight: nn.Parameter, optimizer: Any) -> Iterator[tuple[str, Tensor]]:
    """The weight, and what an optimizer remembers of it."""
    zero = _zero_of(optimizer)
    if zero is None:
        with _gathered([weight]):
            yield WEIGHT, weight
        state = optimizer.state.get(weight, {}) if optimizer is not None else {}
        yield from ((part, state[part]) for part in (STEP, *MOMENTS) if part in state)
        return
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state  # noqa: PLC0415

    yield WEIGHT, safe_get_full_fp32_param(weight)
    if any(zero.optimizer.state.values()):  # a step was taken
        yield STEP, next(state[STEP] for state in zero.optimizer.state.values() if state)
        whole = safe_get_full_optimizer_state if _partitions_weights(zero) else partial(_assembled, zero=zero)
        yield from ((part, whole(weight, part)) for part in MOMENTS)


def _assembled(weight: nn.Parameter, part: str, zero: Any) -> Tensor:
    """A moment out of the flat shards of ZeRO 1 and 2. DeepSpeed 0.19 has it by name too, but for the weights of the
    first parameter group alone: it links moments to weights after that group's first step, and never again."""
    whole = torch.zeros(weight.numel())
    if (place := weight._hp_mapping) is not None:
        of, to = place.hp_fragment_address, place.lp_fragment_address
        flat = zero.single_partition_of_fp32_groups[place.param_group_index]
        whole.narrow(0, to.start, to.numel).copy_(zero.optimizer.state[flat][part].narrow(0, of.start, of.numel))
    whole = whole.to(weight.device)
    dist.all_reduce(whole)
    return whole.view_as(weight)


def _load_plain(read: Read, model: nn.Module, optimizer: Any) -> None:
    for name, weight in trained(model):
        keys = {part: f"{part}:{name}" for part in (STEP, *MOMENTS)}
        if keys[STEP] in read:  # a weight that never had a gradient has none
            found = {part: read[key].get_tensor(key).to(weight.device) for part, key in keys.items()}
            optimizer.state[weight] = {STEP: found.pop(STEP)} | {part: x.to(weight.dtype) for part, x in found.items()}


def _begin_moments(read: Read, zero: Any) -> None:
    """Moments of 0 for every flat shard, which DeepSpeed would make with its first step."""
    steps = torch.stack([file.get_tensor(key).float() for key, file in read.items() if key.startswith(STEP)])
    for flat in _flat_shards(zero):
        zero.optimizer.state[flat] = {STEP: steps.max().to(flat.device)}
        zero.optimizer.state[flat] |= {part: torch.zeros_like(flat) for part in MOMENTS}


def _flat_shards(zero: Any) -> list[Tensor]:
    return zero.fp32_partitioned_groups_flat if _partitions_weights(zero) else zero.single_partition_of_fp32_groups


def _load_shard(read: Read, name: str, weight: nn.Parameter, zero: Any) -> None:
    """This process's shard of a weight and of its moments."""
    for part in (WEIGHT, *MOMENTS):
        key = f"{part}:{name}"
        if key not in read:
            continue
        value = read[key].get_tensor(key).flatten()
        if _partitions_weights(zero):
            _set_partition(weight, part, value)
        elif (place := weight._hp_mapping) is not None:  # None: all of it is with the other processes
            of, to = place.lp_fragment_address, place.hp_fragment_address
            flat = zero.single_partition_of_fp32_groups[place.param_group_index]
            target = flat if part == WEIGHT else zero.optimizer.state[flat][part]
            target.data.narrow(0, to.start, to.numel).copy_(value.narrow(0, of.start, of.numel))


def _set_partition(weight: nn.Parameter, part: str, value: Tensor) -> None:
    """Of ZeRO-3, whose partitions of a weight are equally long, the last ones padded."""
    from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state  # noqa: PLC0415

    size = weight.ds_tensor.numel()
    own = value[rank() * size : (rank() + 1) * size].to(weight.ds_tensor.device)
    own = nn.functional.pad(own, (0, size - own.numel()))
    if part == WEIGHT:
        safe_set_local_fp32_param(weight, own)
    else:
        safe_set_local_optimizer_state(weight, own, part)


def _zero_of(optimizer: Any) -> Any:
    """DeepSpeed's optimizer behind accelerate's wrapper, None where it is torch's own."""
    inner = getattr(optimizer, "optimizer", None)
    return inner if hasattr(inner, "optimizer") else None


def _partitions_weights(zero: Any) -> bool:
    return hasattr(zero, "fp32_partitioned_groups_flat")


def _gathered(weights: list[Tensor]) -> AbstractContextManager[Any]:
    """Inside, the weights are whole on every process, and what all of them write there stays."""
    partitioned = [weight for weight in weights if is_partitioned(weight)]
    if not partitioned:
        return nullcontext()
    import deepspeed  # noqa: PLC0415  seconds, and only where it is in use

    return deepspeed.zero.GatheredParameters(partitioned, modifier_rank=0)


def _write(folder: Path, number: int, tensors: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / f"state-{number:05}.safetensors")


@contextmanager
def _opened(folder: Path) -> Iterator[Read]:
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(path, "pt")) for path in sorted(folder.glob("state-*.safetensors"))]
        yield {key: file for file in files for key in file.keys()}
