"""What watches a training: the log, the progress line, checkpoints, and numbers that stop being numbers."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from models.errors import NumericsError
from models.finite import bad_tensor
from train import checkpoints
from train.faults import fault_point
from train.processes import barrier, gathered, rank
from train.tracking import Tracker

KEPT = 2  # checkpoints: the newest, and one to fall back to


class MetricsLog(TrainerCallback):
    """Every logged step: a line in metrics.jsonl and the tracker's point."""

    def __init__(self, path: Path, tracker: Tracker) -> None:
        self.path, self.tracker = path, tracker

    def keep_until(self, step: int) -> None:
        """Forget what was logged after a checkpoint, so that a resumed run's log is that of an uninterrupted one.

        The tracker is told again what it lost: what it had not sent or flushed when its process was killed.
        """
        if rank() != 0:
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(True) if self.path.exists() else []
        kept = [line for line in lines if _logged_step(line) <= step]
        if len(kept) < len(lines):
            self.path.write_text("".join(kept), encoding="utf-8")
        held = self.tracker.go_on_after(step)
        for logged in map(json.loads, kept):
            if (at := logged.pop("step")) > held:
                self.tracker.log(logged, at)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if rank() == 0 and logs and "train_runtime" not in logs:
            self.write({k: v for k, v in logs.items() if k != "epoch"}, state.global_step)

    def write(self, metrics: dict[str, float], step: int) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        self.tracker.log(metrics, step)


def _logged_step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")


class Progress(TrainerCallback):
    """One line with what is left: a bar on a terminal, a line every few seconds in a file."""

    def __init__(self, name: str, seconds: float = 10.0) -> None:
        self.name, self.seconds, self.bar = name, seconds, None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        self.started, self.first, self.shown = time.monotonic(), state.global_step, time.monotonic()
        if rank() == 0 and sys.stderr.isatty():
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.name, unit="step", leave=False)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(1)
        elif rank() == 0 and now - self.shown > self.seconds:
            self.shown = now
            done, total = state.global_step, state.max_steps
            left = (now - self.started) / (done - self.first) * (total - done)
            print(f"  {self.name}: step {done}/{total}, about {left:.0f} s left", file=sys.stderr)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        if self.bar is not None:
            self.bar.close()


@dataclass(frozen=True)
class Pace:
    """A stage whose steps belong together, such as the updates on one rollout."""

    boundary: int = 1  # checkpoints fall on multiples of so many steps
    after_step: Callable[[int], None] = lambda step: None  # called after each step, before a checkpoint is saved


class AfterStep(TrainerCallback):
    """Tells the stage of every optimizer step."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self.tell = tell

    def on_step_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        self.tell(state.global_step)


class Checkpoints(TrainerCallback):
    """Declares each saved checkpoint complete, with the stage's own state and files.

    Saves at the first multiple of `boundary` at or after each multiple of the configured steps.
    """

    def __init__(
        self,
        stage: str,
        folder: Path,
        state: Callable[[], dict[str, Any]],
        files: Mapping[str, Callable[[Path], None]],
        boundary: int = 1,
    ) -> None:
        self.stage, self.folder, self.stage_state, self.files = stage, folder, state, files
        self.boundary = boundary

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> TrainerControl:
        fault_point(f"{self.stage}:step:{state.global_step}")
        step, every = state.global_step, int(args.save_steps)
        due = args.save_strategy != "no" and step // every > (step - self.boundary) // every
        control.should_log |= state.global_step == state.max_steps
        control.should_save = due and state.global_step % self.boundary == 0 and state.global_step < state.max_steps
        if control.should_save:  # a checkpoint of such weights would push out one that is good
            check_weights(model, state.global_step)
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        barrier()
        checkpoint = self.folder / f"checkpoint-{state.global_step}"
        if rank() == 0 and checkpoint.is_dir():
            fault_point(f"{self.stage}:save:{state.global_step}")
            for name, write in self.files.items():
                write(checkpoint / name)
            checkpoints.complete(checkpoint, self.stage_state())
            checkpoints.keep_newest(self.folder, KEPT)
        barrier()


class NumbersGuard(TrainerCallback):
    """A step whose gradient is not a number is skipped and counted; `patience` of them in a row end the stage.

    DeepSpeed, which has taken its step by then, skips such a one on all processes by itself and says so.
    """

    def __init__(self, patience: int = 5) -> None:
        self.patience, self.in_a_row, self.skipped = patience, 0, 0
        self.by_engine = False  # the step that is being taken

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        self.by_engine = bool(getattr(optimizer, "step_was_skipped", False))
        if not self.by_engine and (not gradients or torch.isfinite(torch.nn.utils.get_total_norm(gradients))):
            self.in_a_row = 0
            return
        self.in_a_row, self.skipped = self.in_a_row + 1, self.skipped + 1
        if self.in_a_row >= self.patience:
            raise NumericsError(
                f"step {state.global_step}: the gradient was not a number {self.patience} times in a row"
                f"{bad_weights(model)}; lower trainer.learning_rate, or look at the rows of these steps"
            )
        for parameter in model.parameters():
            parameter.grad = None

    def on_step_end(self, *_: Any, lr_scheduler: Any = None, **__: Any) -> None:
        """The schedule goes on with a skipped step, which transformers would have it wait for."""
        if self.by_engine:
            lr_scheduler.step()


def check_weights(model: Any, step: int) -> None:
    """Raise NumericsError where a weight is not a number. Every process must ask."""
    if found := bad_weights(model):
        raise NumericsError(f"step {step}{found}; lower trainer.learning_rate")


def bad_weights(model: Any) -> str:
    """The first weights that are not numbers, of this process's or another's shards, as the end of a sentence."""
    found = next(filter(None, gathered(bad_tensor(model))), None)
    return "" if found is None else f"; the weights {found} are not numbers"
