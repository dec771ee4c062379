"""An artefact: a folder that plain transformers can load, with a manifest that says how it came to be.

`model/` holds weights and tokenizer; `manifest.json` is written last: no manifest, no artefact.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.adapter_files import read_record, save_adapter
from models.errors import ArtifactError
from train.digests import digest, file_digest, folder_digests
from train.secrets import without_secrets

MANIFEST = "manifest.json"
RUN_RECORD = "run.json"


@dataclass(frozen=True)
class Artifact:
    """A sealed stage. `folder` is outputs/<experiment>/<stage>; `manifest` what stands in its manifest.json."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def model_folder(self) -> str:
        return str(self.folder / "model")

    @property
    def identity(self) -> str:
        return self.manifest["identity"]

    @property
    def content(self) -> str:
        """Digest of what was made and from what; wall time and host do not enter."""
        return digest([self.manifest["identity"], self.manifest["files"]])


def numbers(metrics: Mapping[str, Any], between: str = ".") -> dict[str, float]:
    """Every number among a manifest's metrics, by the names that lead to it; of an estimate with its interval, the
    mean. No texts, lists or truth values."""
    flat: dict[str, float] = {}
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            if {"mean", "low", "high"} <= set(value):
                flat[key] = float(value["mean"])
            else:
                flat |= {f"{key}{between}{name}": number for name, number in numbers(value, between).items()}
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[key] = float(value)
    return flat


def write_json(path: Path, value: Any) -> None:
    """Write aside, flush to disk, rename: the file is whole or absent, and holds no secret."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with aside.open("w", encoding="utf-8") as file:
        json.dump(without_secrets(value), file, indent=2, ensure_ascii=False, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def save_model(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    weights: dict[str, Tensor] | None,
    beside: dict[str, str],
    root: Path,
) -> None:
    """Write the folder's model/, whole or absent.

    weights: in place of the model's own, where it does not hold them. beside: texts by file name.
    root: where the folders of all stages lie, from which an adapter names its base.
    """
    aside = folder / "model.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    if hasattr(model, "adapter"):
        save_adapter(model, aside, root=root)
    else:
        model.save_pretrained(aside, state_dict=weights)
    tokenizer.save_pretrained(aside)
    for name, text in beside.items():
        (aside / name).write_text(text, encoding="utf-8")
    shutil.rmtree(folder / "model", ignore_errors=True)
    aside.rename(folder / "model")


def seal(folder: Path, manifest: dict[str, Any]) -> Artifact:
    """Digest the files under model/ and write the manifest."""
    manifest = {**manifest, "files": folder_digests(folder / "model") if (folder / "model").is_dir() else {}}
    write_json(folder / MANIFEST, manifest)
    return Artifact(folder, manifest)


def is_artifact_folder(path: Path) -> bool:
    """Whether a stage of ours made this folder, sealed or not."""
    return (path / MANIFEST).exists() or (path / RUN_RECORD).exists()


def read_artifact(folder: Path, *, verify: bool = True) -> Artifact:
    """The artefact in a folder. ArtifactError where it is unsealed, its manifest broken, or a file changed."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder}: not sealed (no {MANIFEST}); its stage did not finish, start it again")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        artifact = Artifact(folder, manifest)
        files, _ = dict(manifest["files"]), (manifest["stage"], manifest["kind"], artifact.content)
        if not all(isinstance(value, str) for value in files.values()):
            raise TypeError("files without digests")
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: broken manifest ({error}); make the artefact again") from error
    if verify:
        for name, expected in files.items():
            _verify(folder, name, expected)
        _refuse_unlisted(folder / "model", files)
    return artifact


def ancestors(artifact: Artifact) -> list[Artifact]:
    """The artefacts that this one was made from, and those before them, as far as they are still there."""
    found: dict[Path, Artifact] = {}
    waiting = [artifact]
    while waiting:
        for path in waiting.pop().manifest["parents"].values():
            folder = Path(path)
            if folder.resolve() not in found and (folder / MANIFEST).is_file():
                found[folder.resolve()] = read_artifact(folder, verify=False)
                waiting.append(found[folder.resolve()])
    return list(found.values())


def model_folder(path: str, kind: str) -> str:
    """The transformers folder behind a path: of an artefact, checked whole and of the expected kind, or the path."""
    folder = Path(path)
    if not folder.is_dir() or not is_artifact_folder(folder):
        return path
    artifact = read_artifact(folder)
    if (base := artifact.manifest.get("base")) != base_of(folder / "model"):
        raise ArtifactError(
            f"{path}: its adapter belongs to the model {base['folder'] if base else 'unknown'}, which has moved or "
            "changed since; put it back, or make the adapter again"
        )
    if artifact.manifest["kind"] != kind:
        raise ArtifactError(
            f"{path}: expected a {kind} model, found a {artifact.manifest['kind']} model made by stages."
            f"{artifact.manifest['stage']}"
        )
    return artifact.model_folder


def base_of(folder: Path) -> dict[str, str] | None:
    """The model that an adapter belongs to, and the digest of what it holds now; None of a whole model."""
    record = read_record(str(folder))
    if record is None:
        return None
    base = Path(record["base"])
    return {"folder": record["base"], "digest": digest(folder_digests(base)) if base.is_dir() else "none"}


def _refuse_unlisted(root: Path, files: dict[str, str]) -> None:
    """Loaders read whatever lies in a model folder, links too, so all of it must have been sealed."""
    for file in root.rglob("*"):
        if (file.is_symlink() or not file.is_dir()) and str(file.relative_to(root)) not in files:
            raise ArtifactError(f"{file}: not in the manifest, so it came after sealing; remove it")


def _verify(folder: Path, name: str, expected: str) -> None:
    file = folder / "model" / name
    if not file.resolve().is_relative_to(folder.resolve() / "model"):
        raise ArtifactError(f"{folder / MANIFEST}: names {name}, which is outside the artefact")
    if not file.is_file():
        raise ArtifactError(f"{file}: missing, the manifest has digest {expected[:12]}")
    if (found := file_digest(file)) != expected:
        raise ArtifactError(f"{file}: digest {found[:12]}, the manifest has {expected[:12]}; changed after sealing")
