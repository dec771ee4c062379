"""What a run is: its stage, configuration, inputs and code. Two runs with the same record make the same artefact."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from models.errors import ArtifactError, ConfigError
from models.plugins import file_of, named_function
from train.artifact import MANIFEST, RUN_RECORD, is_artifact_folder, read_artifact
from train.checkpoints import CHECKPOINTS
from train.digests import code_digest, config_leaves, digest, file_digest, folder_digests
from train.lock import LOCK
from train.secrets import without_secrets

MAY_CHANGE = ("trainer.", "loss.", "rl.kl.", "the code")
CHANGED = "its content changed"
ROW_ORDER = ("trainer.batch_size", "trainer.accumulation", "trainer.shuffle")


def record_of(stage: str, cfg: Any) -> dict[str, Any]:
    """Stage, configuration (less what changes only how it runs), inputs with their digests, code, and the identity."""
    inputs = _inputs(cfg)
    config = {name: value for name, value, meta in config_leaves(cfg) if not meta.get("runtime")}
    counted = {name: value for name, value in config.items() if name not in inputs}
    contents = {name: entry["digest"] for name, entry in inputs.items()}
    return {
        "stage": stage,
        "config": without_secrets(config),
        "inputs": without_secrets(inputs),
        "parents": {name: entry["path"] for name, entry in inputs.items() if entry.get("artifact")},
        "code": code_digest(),
        "identity": digest([stage, counted, contents, code_digest()]),
    }


def recorded(folder: Path) -> dict[str, Any] | None:
    """The record of the run that a folder holds, sealed or not; None where it holds none, empty where it is broken."""
    for name in (MANIFEST, RUN_RECORD):
        try:
            record = json.loads((folder / name).read_text(encoding="utf-8"))
            return record if isinstance(record, dict) else {}
        except FileNotFoundError:
            continue
        except ValueError:
            return {}
    return None


def standing(folder: Path, record: dict[str, Any], resume: str) -> str:
    """What a folder holds: `sealed` or `unfinished`, where it is this very run, else `new`. Clears it as told.

    resume: the stage's option. Raises ConfigError or ArtifactError where the folder holds another run.
    """
    before = recorded(folder)
    if before is None:
        return "new"
    differing, sealed = differences(before, record), (folder / MANIFEST).exists()
    if not differing:
        return "sealed" if sealed else "unfinished"
    if resume == "restart" or not (sealed or (folder / CHECKPOINTS).exists()):  # one that ended before a step
        clear(folder)
        return "new"
    if resume == "force" and not sealed:
        if fixed := [difference for difference in differing if not can_differ(difference)]:
            raise ConfigError(
                f"{folder}: resume=force cannot go on where {', '.join(fixed)} differs; choose another name=, "
                "or resume=restart to clear it away"
            )
        return "unfinished"
    if not sealed and all(CHANGED in difference for difference in differing):
        raise ArtifactError(
            f"{folder}: its checkpoint belongs to other data: {', '.join(differing)}. Put the file back, "
            "choose another name=, or resume=restart to clear it away"
        )
    raise ConfigError(
        f"{folder} holds another run; it differs in {', '.join(differing)}. Choose another name=, or "
        "resume=restart to clear it away" + ("" if sealed else ", or resume=force")
    )


def clear(folder: Path) -> None:
    """Remove what a run left in its folder, but for the lock of the one that clears it."""
    for path in folder.iterdir():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Keys in which two records differ, with both values."""
    old, new = before.get("config", {}), now["config"]
    old_inputs, new_inputs = ({k: v["digest"] for k, v in r.get("inputs", {}).items()} for r in (before, now))
    lines = []
    for key in sorted({*old, *new}):
        if key in old_inputs or key in new_inputs:
            if old_inputs.get(key) != new_inputs.get(key):
                lines.append(
                    f"{key} ({_changed(old_inputs, new_inputs, key)})" if old.get(key) == new.get(key) else key
                )
        elif old.get(key) != new.get(key):
            lines.append(f"{key} ({old.get(key)} before, {new.get(key)} now)")
    return lines if before.get("code") == now["code"] else [*lines, "the code"]


def _changed(before: dict[str, str], now: dict[str, str], key: str) -> str:
    was, found = (inputs.get(key, "none")[:12] for inputs in (before, now))
    return f"{CHANGED}: digest {was} before, {found} now"


def can_differ(difference: str) -> bool:
    """Whether a checkpoint is still of use where two runs differ so: the rates and weights of a loss may change under
    way; what the model is, its rows, their order and their share of a step may not."""
    return difference.startswith(MAY_CHANGE) and not difference.startswith(ROW_ORDER)


def _inputs(cfg: Any) -> dict[str, dict[str, Any]]:
    """Every configured file, folder or function with the digest of what it holds. A hub name stands for itself."""
    found: dict[str, dict[str, Any]] = {}
    for name, value, meta in config_leaves(cfg):
        if value is not None and meta.get("code"):
            found[name] = _code(name, value)
        if not meta.get("input") or value is None:
            continue
        if isinstance(value, list):
            found[name] = {"path": value, "digest": digest([_input(path)["digest"] for path in value])}
        else:
            found[name] = _input(value)
    return found


def _code(option: str, value: str) -> dict[str, Any]:
    file = file_of(named_function(option, value))
    return {"path": value, "digest": digest([value, file_digest(file) if file else None])}


def _input(value: str) -> dict[str, Any]:
    path = Path(value)
    if path.is_dir() and is_artifact_folder(path):
        return {"path": value, "digest": read_artifact(path, verify=False).content, "artifact": True}
    if path.is_dir():
        return {"path": value, "digest": digest(folder_digests(path))}
    return {"path": value, "digest": file_digest(path) if path.is_file() else value}
