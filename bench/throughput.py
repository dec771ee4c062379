"""Tokens a second on paper: arithmetic, traffic and memory bandwidth of one optimizer step, added up.

Nothing here is measured but the traffic that is put in. Ψ = numbers of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from bench.traffic import RINGS

Payloads = dict[str, float]  # by kind of collective, in Ψ


@dataclass(frozen=True)
class Hardware:
    """Stated, not measured. Bytes and operations a second."""

    name: str = "H100 SXM5 80 GB, 8 a node"
    flops: float = 989.4e12  # dense bf16 (NVIDIA H100 data sheet: 1,979 with sparsity)
    bandwidth: float = 3.35e12  # of its memory (the same)
    link: float = 450e9  # NVLink, one way (900 both ways, the same)
    network: float = 400e9  # of a node, one way: 8 × 400 Gb/s InfiniBand (NVIDIA DGX H100 data sheet)
    node: int = 8
    memory: float = 79.6  # GiB that CUDA sees
    utilisation: float = (
        0.40  # of the arithmetic peak while computing: Llama 3 has 38 to 43 % (Dubey et al. 2024, table 4)
    )
    efficiency: float = 0.80  # of link and network that rings of large messages reach: an assumption

    def ring(self, gpus: int) -> float:
        """Bytes a second that pass each place of a ring; over nodes all cards of a node carry its rings."""
        slowest = self.link if gpus <= self.node else min(self.link, self.network)
        return slowest * self.efficiency


class Traffic(NamedTuple):
    """Payloads of a level of sharding."""

    micro: Payloads  # of every micro-batch
    step: Payloads  # of a step, whatever its micro-batches

    def sent(self, accumulation: int, world: int) -> float:
        """Numbers that each process sends a step, in Ψ."""
        rounds = sum(RINGS[kind] * size for kind, size in self.micro.items()) * accumulation
        rounds += sum(RINGS[kind] * size for kind, size in self.step.items())
        return rounds * (world - 1) / world


THEORY = {  # ZeRO, section 7: what a process sends a step, in Ψ
    "none": Traffic({}, {"all_reduce": 1}),
    "zero1": Traffic({}, {"reduce_scatter": 1, "all_gather": 1}),
    "zero2": Traffic({"reduce_scatter": 1}, {"all_gather": 1}),
    "zero3": Traffic({"all_gather": 2, "reduce_scatter": 1}, {}),
}


class Shape(NamedTuple):
    """What a step costs arithmetic for."""

    numel: int  # Ψ
    embedding: int  # of these, looked up and not multiplied with
    layers: int
    hidden: int

    def flops(self, tokens: int, recomputed: bool) -> float:
        """Of one token of a row of so many: 2 forward and 4 backward a weight, and causal attention (Chowdhery et al.
        2022, appendix B, halved for the mask); recomputing adds a forward."""
        forward = 2 * (self.numel - self.embedding) + 2 * self.layers * self.hidden * tokens
        return forward * (4 if recomputed else 3)


class Step(NamedTuple):
    """Seconds of one optimizer step."""

    arithmetic: float
    communication: float
    optimizer: float

    @property
    def apart(self) -> float:
        """Nothing overlaps."""
        return sum(self)

    @property
    def together(self) -> float:
        """Communication hides behind arithmetic as far as it can."""
        return max(self.arithmetic, self.communication) + self.optimizer


OPTIMIZER_BYTES = 32  # a number: gradient, master and moments read, masters, moments and weight written


class Work(NamedTuple):
    """What a process does in a step."""

    rows: int
    tokens: int  # of a row
    accumulation: int
    recomputed: bool


def step(shape: Shape, hardware: Hardware, traffic: Traffic, work: Work, gpus: int) -> Step:
    """Numbers are sent in bfloat16."""
    flops = work.rows * work.tokens * shape.flops(work.tokens, work.recomputed)
    sent = 2 * shape.numel * traffic.sent(work.accumulation, gpus)
    optimizer = OPTIMIZER_BYTES * shape.numel / gpus / hardware.bandwidth
    return Step(flops / (hardware.flops * hardware.utilisation), sent / hardware.ring(gpus), optimizer)
