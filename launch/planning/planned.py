"""A plan for a person, and as numbers."""

from __future__ import annotations

import shlex
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from launch.planning.composing import value_of, without
from launch.planning.fitting import DISK, LEVELS, Fit, Planner
from models.errors import ResourceError

GIB = 2**30
HEAD = ("", "weights", "gradients", "optimizer", "buffers", "activations", "workspace", "KV cache", "at most")


@dataclass(frozen=True)
class Planned:
    """What was found for a command on a machine. memory: GiB of a GPU, of which the share `headroom` stays free."""

    gpus: int
    nodes: int
    memory: float
    headroom: float
    stage: str
    options: list[str]
    planner: Planner
    best: Fit
    fits: list[Fit]

    def command(self) -> str:
        """What to type."""
        cfg, fit = self.planner.cfg, self.best
        options = without(self.options, "deepspeed", "trainer.accumulation", "trainer.gradient_checkpointing")
        more = [f"deepspeed={fit.level}", f"trainer.accumulation={fit.accumulation}"]
        if fit.checkpointing or cfg.trainer.gradient_checkpointing:
            more.append(f"trainer.gradient_checkpointing={str(fit.checkpointing).lower()}")
        if fit.level == LEVELS[-1] and value_of(options, "deepspeed.nvme_path") is None:
            more.append(DISK)
        if self.nodes > 1:
            place = f"--nproc_per_node {self.gpus} --rdzv_backend c10d --rdzv_endpoint $HEAD_NODE:29500"
            start = f"torchrun --nnodes {self.nodes} {place}"
        elif self.gpus > 1:
            start = f"python -m launch.local n={self.gpus}"
        else:
            start = "python"
        return f"{start} -m stages.{self.stage} {' '.join(map(shlex.quote, [*options, *more]))}"

    def check(self) -> None:
        """Raise ResourceError where nothing fits."""
        if not self.best.fits:
            room = self.memory * (1 - self.headroom)
            worst = max(self.best.phases, key=lambda phase: self.best.phases[phase])
            raise ResourceError(
                f"nothing fits: {worst} takes {self.best.total / GIB:.1f} GiB with {self.best.level}, of "
                f"{room:.1f} GiB; more GPUs, shorter rows (tokens=), or adapter=lora or qlora lower it"
            )

    def text(self) -> str:
        """For a person."""
        plan, fit, where = (
            self.planner.blueprint_of(False),
            self.best,
            f"{self.gpus} GPUs of {self.memory:g} GiB",
        )
        machine = where if self.nodes == 1 else f"{self.nodes} nodes of {where}"
        own = sum(weight.numel for weight in plan.weights if weight.role in ("policy", "reward") and weight.sharded)
        lines = [
            f"stages.{self.stage}: {count(own)} numbers, {plan.trained_share:.2%} of what learns is trained; {machine}",
            f"rows of {self.planner.shape}; {self.planner.rows_of_process} rows a GPU and step",
            "",
            *self._table(),
            "",
            f"GiB a GPU; {self.memory * (1 - self.headroom):.1f} can be used. Worst with {fit.level}: {self._phases()}",
        ]
        if len(roles := self._roles()) > 1:
            lines.append("weights: " + ", ".join(f"{role} {size / GIB:.2f}" for role, size in roles.items()))
        if saved := self._shared():
            lines.append(f"one backbone serves them all: {saved / GIB:.2f} GiB less than a copy for each")
        if fit.states.host:
            lines.append(f"in the memory of the machine: {fit.states.host * self.gpus / GIB:.1f} GiB a node")
        return "\n".join([*lines, "", self.command()])

    def as_dict(self) -> dict[str, Any]:
        """For a program. Bytes."""
        return {
            "stage": self.stage,
            "gpus": self.gpus,
            "nodes": self.nodes,
            "memory_gib": self.memory,
            "row": asdict(self.planner.shape),
            "weights": self._roles(),
            "shared_backbone_saves": self._shared(),
            "fits": self.best.fits,
            "best": of_fit(self.best),
            "levels": [of_fit(fit) for fit in self.fits],
            "command": self.command(),
        }

    def _table(self) -> list[str]:
        rows = [HEAD] + [self._row(fit) for fit in self.fits]
        widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
        return [
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]

    def _row(self, fit: Fit) -> tuple[str, ...]:
        mark = "→" if fit is self.best else " "
        again = ", checkpointing" if fit.checkpointing else ""
        name = f"{mark} {fit.level}{again}, {fit.rows} × {fit.accumulation}"
        s, micro = fit.states, fit.micro
        parts = (s.weights, s.gradients, s.optimizer, s.buffers, micro.activations, micro.transient, fit.cache)
        total = f"{fit.total / GIB:.2f}" + ("" if fit.fits else " ✗")
        return (name, *(f"{part / GIB:.2f}" for part in parts), total)

    def _phases(self) -> str:
        return ", ".join(f"{name} {size / GIB:.2f}" for name, size in self.best.phases.items())

    def _roles(self) -> dict[str, float]:
        """Bytes of the weights as they are loaded, by whose they are."""
        found: dict[str, float] = defaultdict(float)
        for weight in self.planner.blueprint_of(False).weights:
            found[weight.role] += weight.n_bytes
        return dict(found)

    def _shared(self) -> float:
        """Bytes that models on the policy's weights save: a copy of what is frozen there for each."""
        weights = self.planner.blueprint_of(False).weights
        if self.stage != "ppo" or any(weight.role == "reference" for weight in weights):
            return 0.0
        frozen = sum(w.n_bytes for w in weights if w.role == "policy" and not w.trained)
        guests = {w.role for w in weights if w.sharded} - {"policy"}
        return frozen * (len(guests) + 1)  # the reference has no weights of its own


def of_fit(fit: Fit) -> dict[str, Any]:
    """A fit as plain numbers."""
    return {
        **fit._asdict(),
        "states": fit.states._asdict(),
        "micro": fit.micro._asdict(),
        "total": fit.total,
    }


def count(n: float) -> str:
    """`8.03 B`, `260 k`"""
    for size, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.3g} {name}"
    return str(int(n))
