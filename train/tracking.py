"""Where a run is watched: Weights & Biases, offline where there is no key, or nowhere."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from models.errors import ConfigError


@dataclass
class TrackingConfig:
    """conf/tracking/*.yaml"""

    backend: str = "wandb"  # wandb or none
    project: str = "hhh-align"
    entity: str | None = None  # the W&B team; None: the key's own

    def __post_init__(self) -> None:
        if self.backend not in ("wandb", "none"):
            raise ConfigError(f"tracking.backend={self.backend}: expected wandb or none")


class Tracker(Protocol):
    """Receives what a run logs: numbers, spreads of numbers, rows, and what should worry someone."""

    run_id: str | None

    def log(self, metrics: dict[str, float], step: int) -> None: ...

    def histogram(self, name: str, values: Sequence[float], step: int) -> None: ...

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None: ...

    def alert(self, title: str, text: str) -> None: ...

    def finish(self, summary: dict[str, Any]) -> None: ...


class NoTracker:
    """Keeps nothing."""

    run_id = None

    def log(self, metrics: dict[str, float], step: int) -> None:
        return

    def histogram(self, name: str, values: Sequence[float], step: int) -> None:
        return

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        return

    def alert(self, title: str, text: str) -> None:
        return

    def finish(self, summary: dict[str, Any]) -> None:
        return


class WandbTracker:
    """One W&B run for one stage, grouped by experiment."""

    def __init__(self, cfg: TrackingConfig, folder: Path, *, group: str, stage: str, config: dict[str, Any]) -> None:
        import wandb  # noqa: PLC0415  half a second, and only where it is asked for

        os.environ.setdefault("WANDB_SILENT", "true")
        self.wandb, self.why_offline = wandb, _why_offline()
        start = partial(
            wandb.init,
            project=cfg.project,
            entity=cfg.entity,
            group=group,
            job_type=stage,
            name=f"{group}/{stage}",
            dir=str(folder),
            config=config,
            settings=wandb.Settings(console="off", init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", "20"))),
        )
        if self.why_offline is None:
            try:
                self.run = start(mode="online")
            except wandb.Error as error:
                self.why_offline = str(error).splitlines()[0]
        if self.why_offline is not None:
            self.run = start(mode="offline")
        self.run_id = self.run.id

    @property
    def where(self) -> str:
        """One line for a person: where the run can be seen."""
        if self.why_offline is not None:
            return f"W&B: offline, {self.why_offline}. Send it with: wandb sync {Path(self.run.dir).parent}"
        return f"W&B: {self.run.url}"

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.run.log(metrics, step=step)

    def histogram(self, name: str, values: Sequence[float], step: int) -> None:
        self.run.log({name: self.wandb.Histogram(list(values))}, step=step)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        columns = list(rows[0]) if rows else []
        table = self.wandb.Table(columns=columns, data=[[row[column] for column in columns] for row in rows])
        self.run.log({name: table}, step=step)

    def alert(self, title: str, text: str) -> None:
        self.run.alert(title=title, text=text)

    def finish(self, summary: dict[str, Any]) -> None:
        self.run.summary.update(summary)
        self.run.finish()


def open_tracker(cfg: TrackingConfig, folder: Path, *, group: str, stage: str, config: dict[str, Any]) -> Tracker:
    """The tracker that the configuration names; it never asks and never waits for a key."""
    if cfg.backend == "none":
        return NoTracker()
    return WandbTracker(cfg, folder, group=group, stage=stage, config=config)


def _why_offline() -> str | None:
    """What stands against trying the network; None where nothing does. Asks nobody."""
    import wandb  # noqa: PLC0415

    if os.environ.get("WANDB_MODE") == "offline":
        return "as WANDB_MODE says"
    try:
        return None if wandb.login(prompt=False, verify=False) else "no key"
    except wandb.Error as error:
        return str(error).splitlines()[0]
