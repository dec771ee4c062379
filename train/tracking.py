"""Where a run is watched: Weights & Biases, offline where there is no key; TensorBoard; or nowhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from models.errors import ConfigError, Preempted
from train.artifact import Artifact, numbers
from train.pruning import Pruned
from train.secrets import without_secrets

BACKENDS = ("wandb", "tensorboard", "none")


@dataclass
class TrackingConfig:
    """conf/tracking/*.yaml"""

    backend: str = "wandb"  # wandb, tensorboard or none
    project: str = "hhh-align"
    entity: str | None = None  # the W&B team; null: the key's own
    group: str | None = None  # the W&B runs that are shown together; null: of one `name`, of one sweep
    tags: list[str] = field(default_factory=list)  # to find runs by on W&B
    notes: str | None = None  # what this run is for, shown on W&B
    upload_model: bool = False  # send the model's files to W&B, too, not their digests alone

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ConfigError(f"tracking.backend={self.backend}: expected {', '.join(BACKENDS)}")
        if not 0 < len(self.project) <= 128 or set(self.project) & set("/\\#?%:"):
            raise ConfigError(f"tracking.project={self.project}: expected up to 128 characters, none of / \\ # ? % :")
        if not all(0 < len(tag) <= 64 for tag in self.tags):
            raise ConfigError("tracking.tags: expected names of 1 to 64 characters")
        if self.upload_model and self.backend != "wandb":
            raise ConfigError("tracking.upload_model=true: only tracking=wandb can send a model")


class Tracker(Protocol):
    """Receives what a run logs: numbers, spreads of numbers, rows, what should worry someone, and what was made."""

    run_id: str | None
    where: str | None  # one line for a person: where the run can be seen

    def go_on_after(self, step: int) -> int:
        """A run begins or goes on after this step; what an earlier process logged later is forgotten or kept once.
        Returns the last step that is held, so that numbers of later ones up to `step` can be logged again."""
        ...

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...

    def histogram(self, name: str, values: Sequence[float], step: int) -> None: ...

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None: ...

    def alert(self, title: str, text: str) -> None: ...

    def artifact(self, made: Artifact) -> None: ...

    def finish(self, summary: Mapping[str, float], exit_code: int = 0) -> str | None:
        """Ends the run. Returns what a person should know of it, if anything."""
        ...


class NoTracker:
    """Keeps nothing."""

    run_id = where = None

    def go_on_after(self, step: int) -> int:
        return step

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        return

    def histogram(self, name: str, values: Sequence[float], step: int) -> None:
        return

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        return

    def alert(self, title: str, text: str) -> None:
        return

    def artifact(self, made: Artifact) -> None:
        return

    def finish(self, summary: Mapping[str, float], exit_code: int = 0) -> str | None:
        return None


def open_tracker(
    cfg: TrackingConfig, folder: Path, *, experiment: str, stage: str, config: Mapping[str, Any]
) -> Tracker:
    """The tracker that the configuration names; it never asks and never waits for a key."""
    if cfg.backend == "wandb":
        from train.wandb_tracker import open_wandb  # noqa: PLC0415  half a second, and only where it is asked for

        return open_wandb(cfg, folder, experiment=experiment, stage=stage, config=config)
    if cfg.backend == "tensorboard":
        from train.tensorboard_tracker import TensorBoardTracker  # noqa: PLC0415  the same, and it may be absent

        return TensorBoardTracker(folder, config)
    return NoTracker()


def conclude(tracker: Tracker, made: Artifact) -> str | None:
    """Ends the run of a sealed stage with what it made and measured. Returns what a person should know, if anything."""
    tracker.artifact(made)
    return tracker.finish(numbers(made.manifest["metrics"], between="/"))


def break_off(tracker: Tracker, stage: str, error: BaseException | None) -> None:
    """Ends the run of a stage that sealed nothing, and calls somebody where that is a failure."""
    code = getattr(error, "code", 1)
    if isinstance(error, Exception) and code not in (Pruned.code, Preempted.code):
        tracker.alert(f"{stage} failed", without_secrets(f"{type(error).__name__}: {error}"))
    tracker.finish({}, exit_code=code if isinstance(code, int) else 1)
