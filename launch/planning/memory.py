"""Bytes on one GPU, part by part: pure arithmetic on counts.

States follow ZeRO (Rajbhandari et al. 2020, section 3 and figure 1) as DeepSpeed lays them out; what a micro-batch
needs beside them comes from `launch.planning.trace`. Ψ = numbers that are trained, N = processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from launch.planning.blueprint import Weight
from launch.planning.trace import Footprint

FLOAT, BFLOAT = 4, 2  # bytes of a number
BUCKET, PERSISTENT, LIVE = 500_000_000, 100_000, 1_000_000_000  # DeepSpeed's own, in numbers


class Zero(NamedTuple):
    """What of the states is spread over the processes, and where it lies."""

    stage: int = 0  # 0: nothing; 1: optimizer state; 2: gradients too; 3: weights too
    autocast: bool = False  # weights are gathered, and gradients reduced, in bfloat16
    optimizer_on_host: bool = False
    weights_on_host: bool = False
    bucket: int = BUCKET  # gradients that are reduced at once
    overlap: bool = False  # a second bucket, filled while the first one is sent
    persistent: int = PERSISTENT  # weights below this size are whole everywhere in stage 3
    live: int = LIVE  # that stage 3 keeps gathered

    @classmethod
    def of(cls, config: Mapping[str, Any] | None) -> Zero:
        """As a configuration for DeepSpeed says; None: plain data parallelism."""
        if config is None:
            return cls()
        zero = config["zero_optimization"]

        def elsewhere(part: str) -> bool:
            return zero.get(part, {}).get("device", "none") != "none"

        return cls(
            stage=zero["stage"],
            autocast=bool(config.get("torch_autocast", {}).get("enabled")),
            optimizer_on_host=elsewhere("offload_optimizer"),
            weights_on_host=elsewhere("offload_param"),
            bucket=zero.get("reduce_bucket_size", BUCKET),
            overlap=zero.get("overlap_comm", zero["stage"] == 3),
            persistent=zero.get("stage3_param_persistence_threshold", PERSISTENT),
            live=zero.get("stage3_max_live_parameters", LIVE),
        )

    @property
    def bucket_bytes(self) -> int:
        """Of the buffers that gradients are reduced in: one for each type that they are sent in."""
        if self.stage == 3:
            return self.bucket * (FLOAT + BFLOAT if self.autocast else FLOAT)
        return self.bucket * FLOAT * (2 if self.autocast else 1) * (2 if self.overlap else 1)


class States(NamedTuple):
    """What is there for the whole of a training, in bytes."""

    weights: int
    gradients: int  # from the first backward pass of a step to its end
    optimizer: int
    buffers: int  # of communication
    host: int  # in the machine's own memory, of this process


def states(weights: Sequence[Weight], zero: Zero, world: int) -> States:
    """Of one process."""
    others = sum(weight.n_bytes for weight in weights if not weight.sharded) / (world if zero.stage == 3 else 1)
    found = (_whole, _replicated, _replicated, _partitioned)[zero.stage](
        [weight for weight in weights if weight.sharded], zero, world
    )
    return found._replace(weights=int(found.weights + others))


def _whole(weights: Sequence[Weight], zero: Zero, world: int) -> States:
    """Plain data parallelism. Adam's two moments have the weights' type, and each tensor counts its steps; gradients
    are reduced in buckets that are a copy of them."""
    trained = [weight.n_bytes for weight in weights if weight.trained]
    gradients = int(sum(trained))
    moments = 2 * gradients + FLOAT * len(trained)
    return States(int(sum(w.n_bytes for w in weights)), gradients, moments, gradients if world > 1 else 0, 0)


def _replicated(weights: Sequence[Weight], zero: Zero, world: int) -> States:
    """Stages 1 and 2: every process holds all weights, and a share of float32 masters and moments."""
    whole = int(sum(weight.n_bytes for weight in weights))
    trained = [weight for weight in weights if weight.trained]
    own = -(-sum(weight.numel for weight in trained) // world)
    gradients = int(sum(weight.n_bytes for weight in trained) / (world if zero.stage == 2 else 1))
    if zero.optimizer_on_host:
        return States(whole, 0, 0, zero.bucket_bytes, 4 * FLOAT * own)
    return States(whole, gradients, 3 * FLOAT * own, zero.bucket_bytes, 0)


def _partitioned(weights: Sequence[Weight], zero: Zero, world: int) -> States:
    """Stage 3: a share of each weight, small ones whole beside it, and those that are gathered to be computed with."""
    small = sum(weight.n_bytes for weight in weights if weight.numel <= zero.persistent)
    shares = sum(weight.n_bytes / weight.numel * -(-weight.numel // world) for weight in weights)
    gathered = min(zero.live, sum(weight.numel for weight in weights if weight.numel > zero.persistent))
    buffers = gathered * (BFLOAT if zero.autocast else FLOAT) + zero.bucket_bytes
    own = sum(-(-weight.numel // world) for weight in weights if weight.trained)
    kept, host = (small, shares) if zero.weights_on_host else (small + shares, 0)
    if zero.optimizer_on_host:
        return States(int(kept), 0, 0, buffers, int(host + 4 * FLOAT * own))
    return States(int(kept), FLOAT * own, 3 * FLOAT * own, buffers, int(host))


class CacheSize(NamedTuple):
    """Of the keys and values while responses are sampled."""

    layers: int
    heads: int  # of keys and values
    width: int  # of a head
    slots: int  # responses at once
    prompt: int  # tokens
    response: int  # tokens, at most
    itemsize: int  # bytes of a number


ROOM = 256  # columns beyond the prompts that are made at first; a full cache doubles


def cache_bytes(size: CacheSize) -> int:
    """Keys and values of every slot, and of the prompts as they are computed before they join."""
    columns, needed = size.prompt + min(size.response, ROOM), size.prompt + size.response
    while columns < needed:
        columns = 2 * (columns + 1)
    column = 2 * size.layers * size.heads * size.width * size.itemsize
    return column * size.slots * (columns + size.prompt)


def drawing_bytes(slots: int, vocabulary: int) -> int:
    """Logits of the next tokens, scaled, their exponentials and the sums of these: four tables in float32."""
    return 4 * FLOAT * slots * vocabulary


def peak(found: States, micro: Footprint, forwards: Mapping[str, int], zero: Zero, trained: int, world: int) -> dict:
    """Bytes at the worst moment of each phase. forwards: what phases without gradients need beside the states."""
    always = found.weights + found.optimizer + (found.buffers if zero.stage == 3 else 0)
    meanwhile = found.buffers if zero.stage < 3 else 0
    phases = {"training": always + found.gradients + meanwhile + micro.activations + micro.transient}
    if zero.stage and not zero.optimizer_on_host:  # the share of the gradients in float32, to step with
        phases["optimizer step"] = always + found.gradients + FLOAT * -(-trained // world)
    return phases | {name: always + n_bytes for name, n_bytes in forwards.items()}
