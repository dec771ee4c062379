"""The two sides of a race, with what must be equal said once: a stage of ours, and a trainer of TRL."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bench.harness import Contestant, python, reported_outcome, stage_outcome

MICRO_BATCHES = 2  # of a step of ours: nearly as fast as one, with less memory
Settings = dict[str, object]


def stage_side(
    name: str,
    module: str,
    precision: str,
    *,
    stage: str,
    inputs: Sequence[str],
    steps_of: tuple[int, float],
    more: Sequence[str] = (),
) -> Contestant:
    """A stage, or a benchmark's module that runs one. inputs: its options of model and data; steps_of: rows of a step
    and the learning rate; more: options that the reader sees."""
    batch, rate = steps_of
    steps = ["shuffle=false", f"batch_size={batch}", f"learning_rate={rate}", "schedule=constant", "beta2=0.999"]
    steps += [f"bf16={precision == 'bf16'}", f"accumulation={MICRO_BATCHES}", "log_every=1", "save_every=0"]
    options = [*inputs, "data.eval_fraction=0", "name=run", "tracking=none"]
    options += [*(f"trainer.{step}" for step in steps), *more]
    return Contestant(
        name,
        precision,
        "ours" if name == "ours" else "without",
        " ".join((f"python -m {module}", f"accumulation={MICRO_BATCHES}", *more)),
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
