"""EleutherAI's lm-evaluation-harness, through its library, on models that are loaded already.

Metrics and their standard errors are the harness's own; values by row, where it gives them, are for paired comparisons.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evals.panel import Nested
from evals.subject import Subject
from evals.tasks import Measured, mean_of
from models.errors import ConfigError, DataError
from models.options import INPUT

BATCH_SIZE = 8
Z = 1.96  # standard errors to either side of a 95 % interval


@dataclass
class HarnessConfig:
    """Tasks of lm-evaluation-harness: pip install lm-eval."""

    tasks: list[str] = field(default_factory=list)  # names of tasks or groups, as in [arc_easy, hellaswag]
    include: str | None = field(default=None, metadata=INPUT)  # a folder with task files (YAML) of your own
    limit: int | None = None  # at most so many rows of each task

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"harness.limit={self.limit}: expected at least 1, or null for all rows")
        if self.include is not None and not Path(self.include).is_dir():
            raise ConfigError(f"harness.include={self.include}: expected a folder with task files")
        if self.tasks and importlib.util.find_spec("lm_eval") is None:
            raise ConfigError(f"harness.tasks={self.tasks}: needs lm-evaluation-harness; pip install lm-eval")


class Harness:
    """The tasks, found and loaded once, so that an unknown name or absent data is told before any model is asked."""

    def __init__(self, cfg: HarnessConfig) -> None:
        from lm_eval.tasks import TaskManager  # noqa: PLC0415  an extra, seconds to import

        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        self.names, self.limit = cfg.tasks, cfg.limit
        self.manager = TaskManager(include_path=cfg.include, include_defaults=False)
        if not set(self.names) <= set(self.manager.all_tasks):  # the index of its own tasks takes long to read
            self.manager = TaskManager(include_path=cfg.include)
        for name in self.names:
            if name not in self.manager.all_tasks:
                near = difflib.get_close_matches(name, self.manager.all_tasks, n=1)
                hint = f"did you mean {near[0]}?" if near else "harness.include names a folder with tasks of your own"
                raise ConfigError(f"harness.tasks: lm-evaluation-harness has no task {name}; {hint}")
        with _told(self.names):
            self.manager.load(self.names)

    def measure(self, model: Subject) -> tuple[Nested, Measured]:
        """Every metric of every task with its standard error, and by row those that are means over rows."""
        from lm_eval import simple_evaluate  # noqa: PLC0415
        from lm_eval.models.huggingface import HFLM  # noqa: PLC0415

        with _told(self.names):
            found = simple_evaluate(
                HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=BATCH_SIZE),
                tasks=self.names,
                task_manager=self.manager,
                limit=self.limit,
                bootstrap_iters=1000,
                apply_chat_template=model.chat is not None,
            )
        metrics = {task: _metrics(task, found) for task in found["results"]}
        rows: Measured = {}
        for task, samples in found["samples"].items():
            for name, measurement in _rows(metrics[task], samples).items():
                rows[f"harness.{task}.{name}"] = measurement
                metrics[task][name] |= measurement.estimate().as_dict()
        return metrics, rows


@contextlib.contextmanager
def _told(names: Sequence[str]) -> Iterator[None]:
    """Whatever a task's file, its data or the library raise, as one DataError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryError) or "memory" in str(error):
            raise
        raise DataError(
            f"harness.tasks={list(names)}: lm-evaluation-harness stopped ({error}); without a network, use tasks whose "
            "data is in the local cache, or files of your own by harness.include"
        ) from error


def _metrics(task: str, found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A task's metrics as estimates; an interval is that of a normal distribution with the standard error."""
    result, better = found["results"][task], found["higher_is_better"].get(task, {})
    n = found["n-samples"].get(task, {}).get("effective", result.get("sample_len", 0))
    metrics: dict[str, dict[str, Any]] = {}
    for key, value in result.items():
        name, _, filtered = key.partition(",")
        error = result.get(f"{name}_stderr,{filtered}")
        if not (filtered and all(isinstance(x, int | float) and math.isfinite(x) for x in (value, error))):
            continue  # no number, or one without a standard error
        estimate = {"mean": float(value), "low": value - Z * error, "high": value + Z * error, "n": n}
        shown = name if filtered == "none" else key
        metrics[shown] = {**estimate, "stderr": float(error), "higher_is_better": better.get(name, True)}
    return metrics


def _rows(metrics: Mapping[str, Mapping[str, Any]], samples: Sequence[Mapping[str, Any]]) -> Measured:
    """The values by row, in the order of the task's rows, of every metric that is their mean."""
    found: Measured = {}
    for shown, estimate in metrics.items():
        name, _, filtered = shown.partition(",")
        own = sorted((s for s in samples if s["filter"] == (filtered or "none")), key=lambda s: s["doc_id"])
        values = [s.get(name) for s in own]
        if values and all(isinstance(value, int | float) for value in values):
            mean = math.fsum(values) / len(values)
            if math.isclose(mean, estimate["mean"], abs_tol=1e-9):
                found[shown] = mean_of([float(value) for value in values])
    return found
