"""JSON Lines that grow while a run works, and that a run which was cut off goes on with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


class GrowingLines:
    """Chunks of lines, each on the disk before the next is worked at. The file is called `<name>.part` until it ends.

    What a chunk holds must follow from its number alone, so that a run that goes on writes what it would have written.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.part = path, path.with_name(f"{path.name}.part")

    def go_on(self, sizes: Sequence[int]) -> int:
        """How many chunks, whose lines are so many, stand there whole; the rest of the file is cut off."""
        if self.path.exists():  # all was written, but not sealed
            self.path.replace(self.part)
        if not self.part.exists():
            return 0
        whole = self.part.read_bytes().split(b"\n")[:-1]
        n_chunks = n_lines = 0
        while n_chunks < len(sizes) and n_lines + sizes[n_chunks] <= len(whole):
            n_lines += sizes[n_chunks]
            n_chunks += 1
        os.truncate(self.part, sum(len(line) + 1 for line in whole[:n_lines]))
        return n_chunks

    def add(self, lines: Iterable[dict[str, Any]]) -> None:
        """One more chunk."""
        with self.part.open("a", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> list[dict[str, Any]]:
        """Give the file its name. Returns all of its lines."""
        self.part.touch()
        self.part.replace(self.path)
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").split("\n")[:-1]]
