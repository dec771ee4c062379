"""Pruning: a point of a sweep that is worse than most others were at the same step is not trained to its end.

The rule is the median rule of Golovin et al. (2017), read from the logs that the points leave anyway. So it needs no
server and no storage, and holds for one objective or several, and under any launcher: the sweep hands it to each point
in an environment variable.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from models.errors import ConfigError
from train.processes import from_main, rank

VARIABLE = "HHH_PRUNING"
LOG = "metrics.jsonl"


class Pruned(Exception):
    """The point is not worth its cost: no failure, the sweep asked for it."""

    code = 0


@dataclass
class PruneConfig:
    """hydra.sweeper.prune"""

    metric: str | None = None  # logged while a stage trains, as in metrics.jsonl; null: no point is pruned
    better: str = "lower"  # or higher
    after_points: int = 4  # others that came as far
    after_steps: int = 1  # to which the metric must have been logged

    def __post_init__(self) -> None:
        if self.better not in ("lower", "higher"):
            raise ConfigError(f"hydra.sweeper.prune.better={self.better}: expected lower or higher")
        for name in ("after_points", "after_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"hydra.sweeper.prune.{name}={getattr(self, name)}: expected at least 1")

    def environment(self, sweep: Path) -> dict[str, str]:
        """What a point's process is told."""
        return {VARIABLE: json.dumps({"sweep": str(sweep.resolve()), **asdict(self)})} if self.metric else {}


class PruneWatch(TrainerCallback):
    """Looks after each step that logged whether the point is still worth its cost. Raises Pruned on all processes."""

    def __init__(self, cfg: PruneConfig, sweep: Path, log: Path) -> None:
        self.cfg, self.sweep, self.log = cfg, sweep, log

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        why = from_main(self._why() if rank() == 0 and state.global_step < state.max_steps else None)
        if why:
            raise Pruned(why)

    def _why(self) -> str | None:
        ours = logged(self.log, self.cfg.metric)
        reached = max(ours, default=0)
        if reached < self.cfg.after_steps:
            return None
        own, logs = self._best(ours, reached), (logged(log, self.cfg.metric) for log in self._others())
        others = [self._best(values, reached) for values in logs if values and max(values) >= reached]
        if len(others) < self.cfg.after_points:
            return None
        middle = statistics.median(others)
        if own <= middle if self.cfg.better == "lower" else own >= middle:
            return None
        return f"{self.cfg.metric} {own:.4g} at step {reached}, the median of {len(others)} others {middle:.4g}"

    def _best(self, values: dict[int, float], until: int) -> float:
        """The best of the steps so far; a value that is no number is the worst there is."""
        best, worst = (min, math.inf) if self.cfg.better == "lower" else (max, -math.inf)
        return best(v if math.isfinite(v) else worst for step, v in values.items() if step <= until)

    def _others(self) -> list[Path]:
        """The logs of this stage at the other points."""
        logs = self.sweep.glob(f"*/{self.log.parent.name}/{LOG}")
        return [log for log in logs if log.resolve() != self.log.resolve()]


def pruning(folder: Path) -> list[PruneWatch]:
    """What watches the stage that trains in a folder: nothing, unless it belongs to a point of a sweep that prunes."""
    told = json.loads(os.environ.get(VARIABLE, "{}"))
    sweep = Path(told.pop("sweep", "."))
    return [PruneWatch(PruneConfig(**told), sweep, folder / LOG)] if told else []


def logged(log: Path, metric: str | None) -> dict[int, float]:
    """The values of a metric by step; a last line that is still being written does not count. Empty without a log."""
    if not log.exists():
        return {}
    values = {}
    for line in log.read_text(encoding="utf-8").split("\n")[:-1]:
        row = json.loads(line)
        if metric in row:
            values[row["step"]] = row[metric]
    return values
