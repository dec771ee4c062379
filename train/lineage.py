"""Where an artefact came from, in names and digests: what a tracker shows of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from models.errors import ArtifactError
from train.artifact import Artifact, read_artifact


def artifact_name(artifact: Artifact) -> str:
    """`<experiment>-<stage>`, in the letters that trackers allow."""
    return re.sub(r"[^\w.-]+", "-", f"{artifact.manifest['run']['name']}-{artifact.folder.name}", flags=re.ASCII)[-128:]


def version(content: str) -> str:
    """What tells this artefact from others of its name."""
    return content[:12]


def lineage(artifact: Artifact) -> dict[str, Any]:
    """What an artefact is, and what it was made of: artefacts by name and version, files by path and digest."""
    manifest = artifact.manifest
    return {
        "stage": manifest["stage"],
        "kind": manifest["kind"],
        "folder": str(artifact.folder.resolve()),
        "identity": manifest["identity"],
        "content": artifact.content,
        "git_commit": manifest["git_commit"],
        "parents": {name: _source(entry) for name, entry in manifest["inputs"].items()},
    }


def _source(entry: dict[str, Any]) -> dict[str, Any]:
    """An input of a stage: `artifact` is its name and version where a stage made it and its folder still holds it."""
    found = {"path": entry["path"], "digest": entry["digest"]}
    if not entry.get("artifact"):
        return found
    try:
        name = artifact_name(read_artifact(Path(entry["path"]), verify=False))
    except ArtifactError:  # cleared away since it was read
        return found
    return {"artifact": f"{name}:{version(entry['digest'])}", **found}
