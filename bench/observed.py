"""A stage's training, looked at from inside: python -m bench.observed <folder> stages.sft option=value ...

The stage runs as ever, with a trainer that counts: bytes that autograd keeps for the backward pass, what else lives at
the worst moment, weights, gradients and optimizer state as they lie in this process, and the bytes of every collective
of a step. Each process writes <folder>/rank-<n>.json; several are started by torchrun.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from bench import traffic

traffic.listen()  # before DeepSpeed takes hold of the collectives

import stages  # noqa: E402, F401
from bench.held_bytes import frozen_beside  # noqa: E402
from launch.planning.composing import composed  # noqa: E402
from launch.planning.trace import Held, Saved, places, resident  # noqa: E402
from train import training  # noqa: E402
from train.processes import rank  # noqa: E402
from train.trainer import StageTrainer  # noqa: E402


class Observed(StageTrainer):
    """Writes what it saw into `found`, of its last micro-batch and its last step."""

    found: dict[str, Any] = {}  # noqa: RUF012  one process trains once

    def compute_loss(self, model: nn.Module, inputs: Any, **options: Any) -> Tensor:
        saved = Saved(places(resident(model), inputs.values()))
        with saved.counting():
            loss = super().compute_loss(model, inputs, **options)
        self.found["activations"] = saved.n_bytes
        return loss

    def training_step(self, model: nn.Module, inputs: Any, *rest: Any) -> Tensor:
        self._look_before_steps()
        self._between = gradients_of(getattr(self.model_wrapped, "optimizer", None), self.model)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        traffic.heard()
        with Held(places(resident(model), inputs.values())) as held:
            loss = super().training_step(model, inputs, *rest)
        # The last micro-batch of a step takes the step along where DeepSpeed has taken over; see `observed` below.
        self.found["traffic"] = [*self.found.get("traffic", ()), traffic.heard()][-2:]
        self.found["transient"] = max(0, held.peak - self.found["activations"])
        if torch.cuda.is_available():
            self.found["cuda_peak"] = torch.cuda.max_memory_allocated()
        return loss

    def _look_before_steps(self) -> None:
        """What is there when an optimizer steps: once it is there, for it is wrapped on the way."""
        optimizer = getattr(self.model_wrapped, "optimizer", None) or self.optimizer
        if getattr(optimizer, "is_observed", False):
            return
        if isinstance(self.model_wrapped, DistributedDataParallel):  # whose own reductions no one hears
            self.model_wrapped.register_comm_hook(None, allreduce_hook)
        step = optimizer.step

        def observed(*args: Any, **options: Any) -> Any:
            gradients = max(self._between, gradients_of(optimizer, self.model))  # ZeRO-1 holds whole ones before
            done = step(*args, **options)
            states, frozen = optimizer_states(optimizer), frozen_beside(self.batches)
            self.found |= {"weights": weights_of(self.model, *frozen), "gradients": gradients, "optimizer": states}
            self.found["numel"] = trained_numbers(self.model)
            return done

        optimizer.step, optimizer.is_observed = observed, True


def weights_of(*models: nn.Module) -> int:
    """Bytes of the weights in this process: under ZeRO-3 its share, and those that are whole everywhere."""
    weights = [p for model in models for p in model.parameters()]
    return unique_bytes(part for p in weights for part in (p.data, getattr(p, "ds_tensor", None)) if part is not None)


def trained_numbers(model: nn.Module) -> int:
    """Of the whole model, however little of it is here."""
    return sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters() if p.requires_grad)


def gradients_of(optimizer: Any, model: nn.Module) -> int:
    """Bytes of the gradients that this process steps with, or still holds."""
    held = [p.grad for p in model.parameters() if p.grad is not None]
    for tensors in getattr(optimizer, "averaged_gradients", {}).values():
        held += [tensors] if isinstance(tensors, Tensor) else tensors or []
    if (flat := getattr(optimizer, "grad_partitions_flat_buffer", None)) is not None:
        held = [flat]
    return unique_bytes(held)


def optimizer_states(optimizer: Any) -> int:
    """Bytes of master weights and moments."""
    masters = getattr(
        optimizer, "single_partition_of_fp32_groups", getattr(optimizer, "fp32_partitioned_groups_flat", [])
    )
    inner = getattr(optimizer, "optimizer", optimizer)
    state = [tensor for entry in inner.state.values() for tensor in entry.values() if isinstance(tensor, Tensor)]
    return unique_bytes([*masters, *state])


def unique_bytes(tensors: Iterable[Tensor]) -> int:
    """Of their storages, each once."""
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())


def trained(stage: str, options: Sequence[str]) -> dict[str, Any]:
    """Run the stage in this process, and tell what was seen."""
    training.StageTrainer = Observed
    importlib.import_module(f"stages.{stage}").run(composed(stage, options))
    return Observed.found


def main(folder: Path, module: str, *options: str) -> None:
    found = trained(module.removeprefix("stages."), options)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"rank-{rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
