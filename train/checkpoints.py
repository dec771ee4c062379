"""Checkpoints: complete or absent. A `complete.json` with every file's digest is written last and is what counts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from models.errors import ArtifactError
from train.artifact import write_json
from train.digests import folder_digests

CHECKPOINTS = "checkpoints"  # their folder in a run's
COMPLETE = "complete.json"


def complete(checkpoint: Path, state: dict[str, Any]) -> None:
    """Declare a checkpoint whole. `state` is what the stage itself must remember (controllers, counters)."""
    files = {name: value for name, value in folder_digests(checkpoint).items() if name != COMPLETE}
    write_json(checkpoint / COMPLETE, {"state": state, "files": files})


def stage_state(checkpoint: Path) -> dict[str, Any]:
    """What the stage remembered."""
    return json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))["state"]


def checkpoint_step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def newest(folder: Path) -> tuple[Path | None, dict[Path, str]]:
    """The newest complete checkpoint below the folder, in numeric order, and what is wrong with newer ones."""
    passed_over: dict[Path, str] = {}
    for checkpoint in sorted(_all(folder), key=checkpoint_step, reverse=True):
        fault = damage(checkpoint)
        if fault is None:
            return checkpoint, passed_over
        passed_over[checkpoint] = fault
    return None, passed_over


def named(path: Path) -> Path:
    """A checkpoint that somebody named: it must be there and whole."""
    if not path.is_dir():
        raise ArtifactError(f"{path}: no such checkpoint")
    if (fault := damage(path)) is not None:
        raise ArtifactError(f"{path}: {fault}")
    return path


def remove_incomplete(folder: Path, sound: Path | None = None) -> None:
    """Clear away what an interrupted save left. sound: one that was found whole, and is not read again."""
    for checkpoint in _all(folder):
        if checkpoint != sound and damage(checkpoint) is not None:
            shutil.rmtree(checkpoint)


def keep_newest(folder: Path, n: int) -> None:
    """Remove all but the newest n checkpoints, by their steps: files may look newer than they are where a clock was
    set back."""
    for checkpoint in sorted(_all(folder), key=checkpoint_step)[:-n]:
        shutil.rmtree(checkpoint)


def _all(folder: Path) -> list[Path]:
    return [p for p in folder.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdecimal() and p.is_dir()]


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, None where it is whole."""
    record = checkpoint / COMPLETE
    if not record.is_file():
        return "incomplete, its save was interrupted"
    try:
        expected = dict(json.loads(record.read_text(encoding="utf-8"))["files"])
        if not expected:
            raise ValueError("it lists no files")
    except (ValueError, KeyError, TypeError) as error:
        return f"{COMPLETE} cannot be read ({error})"
    found = folder_digests(checkpoint)
    for name, value in expected.items():
        if found.get(name) != value:
            return f"{name} is damaged or missing"
    return None
