"""A run on TensorBoard: event files in `tensorboard/` of the stage's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import ConfigError
from train.artifact import Artifact
from train.lineage import artifact_name, lineage, version

try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter
except ImportError as error:
    raise ConfigError("tracking=tensorboard needs tensorboard; pip install 'hhh-align[tensorboard]'") from error


class TensorBoardTracker:
    """Writes each step to the disk at once, so that a checkpoint never knows of more than the log does."""

    run_id = None

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder, self.step = folder / "tensorboard", -1
        self.config = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in config.items()}
        self.told = _last_texts(self.folder)
        self.writer = SummaryWriter(str(self.folder))

    @property
    def where(self) -> str:
        return f"TensorBoard: tensorboard --logdir {self.folder.parent.parent}"

    def go_on_after(self, step: int) -> int:
        """Marks what an earlier process logged later as orphaned. TensorBoard then leaves it out, all but texts."""
        if self.told is None:
            return self.step
        self.writer.close()
        self.writer = SummaryWriter(str(self.folder), purge_step=step + 1)
        return step

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        self._written(step)

    def histogram(self, name: str, values: Sequence[float], step: int) -> None:
        self.writer.add_histogram(name, np.asarray(values, dtype=np.float64), step)
        self._written(step)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        if step > (self.told or {}).get(name, -1):
            self.writer.add_text(name, markdown(rows), step)
            self._written(step)

    def alert(self, title: str, text: str) -> None:
        self.writer.add_text("alerts", f"**{title}**: {text}", max(self.step, 0))

    def artifact(self, made: Artifact) -> None:
        known = {**lineage(made), "artifact": f"{artifact_name(made)}:{version(made.content)}"}
        parents = [{"option": name, **{"artifact": "", **entry}} for name, entry in known.pop("parents").items()]
        said = markdown([{"": name, "is": value} for name, value in known.items()])
        self.writer.add_text("lineage", "\n\n".join([said, markdown(parents)]), max(self.step, 0))

    def finish(self, summary: Mapping[str, float], exit_code: int = 0) -> str | None:
        if exit_code == 0:
            self.writer.add_hparams(self.config, {f"final/{k}": v for k, v in summary.items()}, run_name=".")
        self.writer.close()
        return None

    def _written(self, step: int) -> None:
        self.step = max(self.step, step)
        self.writer.flush()


def _last_texts(folder: Path) -> dict[str, int] | None:
    """The last step of each text that an earlier process logged; None where there was none."""
    if not any(folder.glob("events.*")):
        return None
    earlier = EventAccumulator(str(folder), size_guidance={"tensors": 1})
    earlier.Reload()
    names = earlier.Tags()["tensors"]
    return {name.removesuffix("/text_summary"): max(text.step for text in earlier.Tensors(name)) for name in names}


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of the rows, their texts as texts."""
    columns = list(rows[0]) if rows else []
    lines = [columns, ["---"] * len(columns), *([row[column] for column in columns] for row in rows)]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    marks = {ord(mark): f"&#{ord(mark)};" for mark in "|<>&*_`[]\\"}
    return text.translate(marks).replace("\n", "<br>")
