"""Digests: of files, folders, code and configurations. A stage's identity is made of these."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_ROOMS = ("models", "instruct", "reward", "rl", "evals", "train", "stages")


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)


def folder_digests(folder: Path) -> dict[str, str]:
    """Digest of every file below the folder, by relative path. Links out of the folder are not followed."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    return {str(p.relative_to(folder)): file_digest(p) for p in files}


def digest(value: Any) -> str:
    """Digest of plain data, keys in any order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@functools.cache
def code_digest() -> str:
    """Digest of the project's own code, so that what other code made is not taken for what this code makes."""
    root = Path(__file__).parent.parent
    sources = sorted(p for room in _ROOMS for p in (root / room).rglob("*.py"))
    return digest({str(p.relative_to(root)): file_digest(p) for p in sources})


def config_leaves(cfg: Any, prefix: str = "") -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """(full name, value, metadata) of every leaf of a nested dataclass, and of what it has by name."""
    for field in dataclasses.fields(cfg):
        yield from _leaves(prefix + field.name, getattr(cfg, field.name), field.metadata)


def _leaves(name: str, value: Any, meta: Mapping[str, Any]) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    if dataclasses.is_dataclass(value):
        yield from ((n, v, {**m, **meta}) for n, v, m in config_leaves(value, name + "."))
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _leaves(f"{name}.{key}", entry, meta)
    else:
        yield name, value, meta


def _sha256(file: Any) -> str:
    """`hashlib.file_digest` for Python 3.10."""
    state = hashlib.sha256()
    while block := file.read(1 << 20):
        state.update(block)
    return state.hexdigest()
