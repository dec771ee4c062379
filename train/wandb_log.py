"""What W&B has written of a run: `wandb/<part>/run-<id>.wandb`, one part for each process that went on with it."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from wandb.proto.wandb_internal_pb2 import Record

_HEAD, _BLOCK, _PART = 7, 32768, 7  # bytes: of the file's head, of a block, of what stands before a part of a record
_WHOLE, _LAST = 1, 4


def records(file: Path) -> Iterator[Any]:
    """The records of a file, up to one that was cut off."""
    return (record for record, _ in _entries(file))


def last_step(files: Iterable[Path]) -> int:
    """The last step of which these files hold a number; -1 where they hold none."""
    steps = (record.history.step.num for file in files for record in records(file) if record.HasField("history"))
    return max(steps, default=-1)


def mend(file: Path) -> bool:
    """Cut away a record that was not written to its end. Returns whether the file holds a run at all.

    `wandb sync` stops at such a record, and sends nothing where a file holds no run, of the parts that follow neither.
    """
    holds_run, whole = False, 0
    for record, end in _entries(file):
        holds_run, whole = holds_run or record.HasField("run"), end
    if whole < file.stat().st_size:
        os.truncate(file, whole)
    return holds_run


def _entries(file: Path) -> Iterator[tuple[Any, int]]:
    """(record, where it ends). The file is a log as LevelDB writes them: blocks that hold parts of records, each after
    its checksum, length and kind."""
    data, at, parts = file.read_bytes(), _HEAD, b""
    while at + _PART <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _PART:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + _PART])
        parts += data[at + _PART : at + _PART + length]
        at += _PART + length
        if at > len(data):
            return
        if kind in (_WHOLE, _LAST):
            try:
                yield Record.FromString(parts), at
            except DecodeError:
                return
            parts = b""
