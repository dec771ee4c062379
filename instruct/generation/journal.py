"""Lines that survive: JSON Lines appended one by one, each on the disk before anything is made of it."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from models.errors import ArtifactError, ResourceError


class Journal:
    """Entries by their `key`, those of earlier runs included. `torn`: a kill had cut the last line, which is gone.

    ASCII alone is written, so that half a character in a reply cannot keep it from the disk.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.torn = path, False
        self._lock = threading.Lock()
        self._entries: dict[str, dict[str, Any]] = {}
        if path.exists():
            self._read()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> dict[str, Any] | None:
        """The entry of this key, or None."""
        return self._entries.get(key)

    def add(self, entry: dict[str, Any]) -> None:
        """Put an entry on the disk, and then among the others. Any thread may."""
        line = json.dumps(entry).encode() + b"\n"
        with self._lock:
            self._append(line)
            self._entries[entry["key"]] = entry

    def _append(self, line: bytes) -> None:
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if self.path.exists():
                os.truncate(self.path, size)  # half a line would spoil the next one
            raise ResourceError(f"{self.path}: cannot be written ({error.strerror}); make room, start again") from error

    def _read(self) -> None:
        raw = self.path.read_bytes()
        whole, _, rest = raw.rpartition(b"\n")
        for number, line in enumerate(whole.split(b"\n") if whole else (), 1):
            entry = _entry(line)
            if entry is None:
                raise ArtifactError(f"{self.path}:{number}: not a line of a journal; remove it, the others are kept")
            self._entries[entry["key"]] = entry
        if rest and (entry := _entry(rest)) is not None:  # all of it but the line end
            self._append(b"\n")
            self._entries[entry["key"]] = entry
        elif rest:
            self.torn = True
            os.truncate(self.path, len(raw) - len(rest))


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("key"), str) else None
