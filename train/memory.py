"""Running out of memory while training: what was too much, and half of it."""

from __future__ import annotations

from collections.abc import Sequence

from models.errors import ResourceError
from models.layout import Batch
from train.trainer import TrainerConfig


class OutOfMemory(ResourceError):
    """A step did not fit. `step`: how many were taken before it."""

    def __init__(self, line: str, step: int) -> None:
        super().__init__(line)
        self.step = step


def out_of_memory(step: int, batches: Sequence[Batch], trainer: TrainerConfig | None) -> OutOfMemory:
    """What was at work, and the options that make it smaller.

    batches: the micro-batches of the step, none before it began. trainer: how it was divided, None of a trainer that is
    not ours.
    """
    if not batches or trainer is None:
        what = f"out of memory before step {step + 1}, while its rows were made; lower trainer.batch_size"
        return OutOfMemory(f"{what}, layout.max_length or, in reinforcement learning, rl.max_new_tokens", step)
    rows = max(int(batch["tree"].max()) + 1 for batch in batches)
    tokens = max(int((batch["segment"] > 0).sum()) for batch in batches)
    return OutOfMemory(
        f"out of memory in step {step + 1}, with {rows} rows of {tokens} tokens at a time; raise trainer.accumulation="
        f"{trainer.accumulation}, lower trainer.batch_size={trainer.batch_size} or layout.max_length, or say "
        "trainer.gradient_checkpointing=true",
        step,
    )
