"""Held-out measurements while a model trains: which weights are the best so far, and when to stop."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from models.errors import ConfigError
from train.processes import barrier, rank
from train.state import load_weights, save_state
from train.trainer import TrainerConfig

BEST = "best"


class HeldOutWatch(TrainerCallback):
    """Measures every `eval_every` steps and after the last, logs it, keeps the best weights and stops by patience.

    measure: held-out metrics of the model as it is. say: one line for the person who waits.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        cfg: TrainerConfig,
        measure: Callable[[], dict[str, float]],
        log: Callable[[dict[str, float], int], None],
        say: Callable[[str], None],
    ) -> None:
        self.path, self.model, self.cfg, self.measure = folder / BEST, model, cfg, measure
        self.log, self.say = log, say
        self.best: dict[str, float] | None = None
        self.without_gain = 0

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint remembers."""
        return {"best": self.best, "without_gain": self.without_gain}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.without_gain = state["best"], state["without_gain"]

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        step = state.global_step
        if step % self.cfg.eval_every == 0 or step == state.max_steps:
            control.should_training_stop |= self._look(step)
        return control

    def restore_best(self) -> dict[str, float]:
        """Give the model its best weights back where they are to be kept; what was measured then."""
        if self.best is None or self.cfg.keep == "last":
            return {}
        barrier()
        load_weights(self.path, self.model)
        barrier()
        if rank() == 0:
            shutil.rmtree(self.path)
        return {"kept_step": self.best["step"]}

    def _look(self, step: int) -> bool:
        """Measure; True where it is time to stop."""
        found = self.measure()
        if self.cfg.metric not in found:
            known = ", ".join(sorted(found)) or "none: no row is held out"
            raise ConfigError(f"trainer.metric={self.cfg.metric}: not measured on the held-out rows ({known})")
        self.log(found, step)
        value = found[self.cfg.metric] if self.cfg.better == "lower" else -found[self.cfg.metric]
        if math.isfinite(value) and (self.best is None or value < self.best["value"]):
            self.best, self.without_gain = {"step": step, "value": value}, 0
            if self.cfg.keep == "best":
                self._keep()
            return False
        self.without_gain += 1
        stop = 0 < self.cfg.patience <= self.without_gain
        if stop:
            self.say(f"stopped at step {step}: no better {self.cfg.metric} since step {self.best['step']}")
        return stop

    def _keep(self) -> None:
        aside = self.path.with_suffix(".tmp")
        if rank() == 0:
            shutil.rmtree(aside, ignore_errors=True)
        barrier()
        save_state(aside, self.model)
        if rank() == 0:
            shutil.rmtree(self.path, ignore_errors=True)
            aside.rename(self.path)
