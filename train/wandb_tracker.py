"""A run on Weights & Biases: online where there is a key and a network, else offline; the choice is never W&B's own."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb
from pydantic import ValidationError

from models.errors import ConfigError
from models.http import shown
from train.artifact import MANIFEST, Artifact
from train.lineage import artifact_name, lineage, version
from train.secrets import without_secrets
from train.tracking import NoTracker, Tracker, TrackingConfig
from train.wandb_log import last_step, mend

# Seconds, where the environment does not say otherwise:
LIMITS = {
    "WANDB_INIT_TIMEOUT": 20.0,  # for the server to take up a run
    "WANDB_FINISH_TIMEOUT": 30.0,  # to send, at a run's end, what is still on the disk alone
}

# W&B would take with it the command line, the address of the git remote, the diff of the working tree, the code and the
# packages' addresses, any of which may hold a key. What counts of them stands in the manifest.
PRIVATE: dict[str, Any] = {
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "x_disable_meta": True,
    "x_save_requirements": False,
    "label_disable": True,
}


def open_wandb(cfg: TrackingConfig, folder: Path, *, experiment: str, stage: str, config: Mapping[str, Any]) -> Tracker:
    """The run of a stage, the same one whenever the stage goes on. ConfigError where W&B's own settings are wrong."""
    own = folder / "wandb"
    own.mkdir(exist_ok=True)
    os.environ["WANDB_DATA_DIR"] = str(own.resolve())  # tables wait there to be sent; $HOME may not be writable
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    why_offline = _why_offline()
    if why_offline == "disabled":
        return NoTracker()
    for part in own.glob("*/*.wandb"):
        if not mend(part):
            shutil.rmtree(part.parent)
    given = {
        "id": _run_id(own),
        "resume": "allow",
        "dir": str(folder),
        "project": cfg.project,
        "entity": cfg.entity,
        "group": cfg.group or experiment.rpartition("/")[0] or experiment,  # the points of a sweep are <sweep>/<point>
        "job_type": stage,
        "name": f"{experiment}/{stage}",
        "tags": cfg.tags,
        "notes": cfg.notes,
        "config": dict(config),
    }
    held = last_step(own.glob("*/*.wandb"))
    run, why_offline = _started(without_secrets(given), why_offline)
    if why_offline is None:  # then the server knows better what it has
        held = run.starting_step - 1
    return WandbTracker(run, own, held, why_offline, upload_model=cfg.upload_model)


class WandbTracker:
    """Writes to one W&B run. held: the last step of which it holds numbers from an earlier process; a run that goes on
    computes later steps again and to the same numbers, and W&B takes each step once."""

    def __init__(self, run: wandb.Run, own: Path, held: int, why_offline: str | None, *, upload_model: bool) -> None:
        self.run, self.own, self.held, self.newest = run, own, held, held
        self.run_id, self.why_offline, self.upload_model = run.id, why_offline, upload_model
        self.lost: list[str] = []

    @property
    def where(self) -> str:
        """One line for a person: where the run can be seen."""
        if self.why_offline is None:
            return f"W&B: {self.run.url}"
        return f"W&B: offline, {self.why_offline}. Send it with: wandb sync {shlex.quote(str(self.own))}"

    def go_on_after(self, step: int) -> int:
        return self.newest

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        if step > self.held:
            self.run.log(dict(metrics), step=step)
            self.newest = max(self.newest, step)

    def histogram(self, name: str, values: Sequence[float], step: int) -> None:
        self.log({name: wandb.Histogram(list(values))}, step)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        columns = list(rows[0]) if rows else []
        data = [[row[column] for column in columns] for row in rows]
        self.log({name: wandb.Table(columns=columns, data=data, allow_mixed_types=True)}, step)

    def alert(self, title: str, text: str) -> None:
        self.run.alert(title=title[:63], text=text, level="WARN")

    def artifact(self, made: Artifact) -> None:
        found = wandb.Artifact(artifact_name(made), type=made.manifest["kind"], metadata=lineage(made))
        found.add_file(str(made.folder / MANIFEST), policy="immutable", skip_cache=True)
        if self.upload_model and made.manifest["files"]:
            found.add_dir(made.model_folder, name="model", policy="immutable", skip_cache=True)
        try:
            self.run.log_artifact(found, aliases=["latest", version(made.content)])
        except (
            wandb.Error,
            ValueError,
        ) as error:  # online the server is asked first; what was made is whole all the same
            self.lost.append(f"W&B: the artifact {found.name} was not logged, {shown(str(error))}")

    def finish(self, summary: Mapping[str, float], exit_code: int = 0) -> str | None:
        self.run.summary.update(dict(summary))
        try:
            self.run.finish(exit_code=exit_code)
        except TimeoutError:
            rest = f"wandb sync --include-online {shlex.quote(str(self.own))}"
            within = f"{_limit('WANDB_FINISH_TIMEOUT'):g} s"
            self.lost.append(f"W&B: not all was sent within {within}. Send the rest with: {rest}")
        return "; ".join(self.lost) or None


def _why_offline() -> str | None:
    """What stands against trying the network, `disabled` where W&B is turned off; None where nothing does."""
    try:
        mode = wandb.setup(wandb.Settings(silent=True)).settings.mode
        if mode in ("disabled", "offline", "dryrun"):
            by = "WANDB_MODE" if "WANDB_MODE" in os.environ else "W&B's settings file"
            return "disabled" if mode == "disabled" else f"as {by} says"
        return None if wandb.login(prompt=False, verify=False) else "no key"
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"W&B's settings (WANDB_* in the environment, or its settings file): {wrong}") from error
    except wandb.Error as error:
        return shown(str(error))


def _run_id(own: Path) -> str:
    """The id of the run on W&B: drawn once, and kept beside the run's parts."""
    kept = own / "run_id"
    if not kept.exists():
        kept.write_text(secrets.token_hex(4), encoding="utf-8")
    return kept.read_text(encoding="utf-8")


def _started(given: dict[str, Any], why_offline: str | None) -> tuple[wandb.Run, str | None]:
    """A new part of the run, and why it is offline if it is: the reason that was known, or what the server said."""
    settings = wandb.Settings(
        init_timeout=_limit("WANDB_INIT_TIMEOUT"),
        finish_timeout=_limit("WANDB_FINISH_TIMEOUT"),
        finish_timeout_raises=True,
        allow_val_change=True,  # of options that may differ when a run goes on
        reinit="create_new",
        use_dot_wandb=False,
        symlink=False,  # `latest-run` would be one of the parts twice
        x_transaction_log_flush_interval=1.0,  # seconds; what is not written yet is lost when a process is killed
        console="off",
        silent=True,
        **PRIVATE,
    )
    if why_offline is None:
        try:
            return wandb.init(mode="online", settings=settings, **given), None
        except wandb.Error as error:
            why_offline = shown(str(error))
            wandb.teardown()  # its service would go on to hold the id
    return wandb.init(mode="offline", settings=settings, **given), why_offline


def _limit(name: str) -> float:
    try:
        return float(os.environ.get(name, LIMITS[name]))
    except ValueError as error:
        raise ConfigError(f"{name}={os.environ[name]}: expected seconds") from error
