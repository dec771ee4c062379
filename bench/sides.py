"""The two sides of a race, with what must be equal said once: a stage of ours, and a trainer of TRL."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench.harness import Contestant, python, reported_outcome, stage_outcome

MICRO_BATCHES = 2  # of a step of ours: nearly as fast as one, with less memory
Settings = dict[str, object]


class Steps(NamedTuple):
    """Of the optimizer, on our side."""

    rows: int
    rate: float
    micro_batches: int = MICRO_BATCHES


def stage_side(
    name: str,
    module: str,
    precision: str,
    *,
    stage: str,
    inputs: Sequence[str],
    steps: Steps,
    more: Sequence[str] = (),
) -> Contestant:
    """A stage, or a benchmark's module that runs one. inputs: its options of model, data and work; more: options that
    the reader sees."""
    rows, rate, micro_batches = steps
    trainer = ["shuffle=false", f"batch_size={rows}", f"learning_rate={rate}", "schedule=constant", "beta2=0.999"]
    trainer += [f"bf16={precision == 'bf16'}", f"accumulation={micro_batches}", "log_every=1", "save_every=0"]
    options = [*inputs, "data.eval_fraction=0", "name=run", "tracking=none"]
    options += [*(f"trainer.{option}" for option in trainer), *more]
    return Contestant(
        name,
        precision,
        "ours" if name == "ours" else "without",
        " ".join((f"python -m {module}", f"accumulation={micro_batches}", *more)),
        lambda folder: python(module, f"outputs={folder}", *options),
        partial(stage_outcome, stage=stage),
    )


def trl_side(
    name: str,
    precision: str,
    command: Callable[[Path, str], list[str]],
    *,
    equal: Settings,
    rate: float,
    settings: Settings,
    same_steps: bool = True,
) -> Contestant:
    """TRL's trainer. command: from a folder and options in JSON; equal: what must be as ours; settings: for speed."""
    options = json.dumps({"bf16": precision == "bf16", "learning_rate": rate} | equal | settings)
    return Contestant(
        f"TRL, {name}",
        precision,
        "setting" if settings else "default",
        " ".join(f"{key}={value}" for key, value in settings.items()) or "as it comes",
        lambda folder: command(folder, options),
        reported_outcome,
        same_steps=same_steps,
    )
