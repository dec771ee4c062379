"""What can go wrong, each with its exit code. Raised where the fact is known, printed once by `train.entry`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class HHHError(Exception):
    """A fault with one clear line for the person who typed the command. `code` is the process's exit code."""

    code = 1


class ConfigError(HHHError):
    """A wrong option: misspelt, out of range, or in conflict with another."""

    code = 2


class DataError(HHHError):
    """A data file that is missing, empty or unreadable."""

    code = 3


class ArtifactError(HHHError):
    """A model folder, artefact or checkpoint that is damaged, unsafe or of the wrong kind."""

    code = 4


class NumericsError(HHHError):
    """Losses, gradients or weights that stopped being numbers. `batch`: what it was seen on, to be kept."""

    code = 5
    batch: object = None


class ResourceError(HHHError):
    """The machine ran out of memory or disk, or the output cannot be written."""

    code = 6


class LostProcess(HHHError):
    """Another process of the run has gone or does not answer. Why, that process or the launcher says."""

    code = 1


class Preempted(KeyboardInterrupt):
    """The stage was asked to stop, and can be queued again. It passes wherever a Ctrl-C passes."""

    code = 75


class Unavailable(HHHError):
    """A service that kept failing. What it gave so far is kept, and the stage can be queued again."""

    code = 75


@dataclass(frozen=True)
class Origin:
    """Where a record came from: the file and its 1-based line (JSONL, CSV) or row (JSON array, Parquet)."""

    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


class BadRow(DataError):
    """One record that cannot be used: names the file, line, field, what was expected and what stood there."""

    def __init__(self, origin: Origin, field: str, expected: str, got: object) -> None:
        self.origin, self.field, self.expected = origin, field, expected
        shown = repr(got)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        super().__init__(f"{origin}:{field}: expected {expected}, got {shown}")


def check_choice(option: str, value: object, choices: Iterable[object]) -> None:
    """Raise ConfigError where an option has none of the values that it may have."""
    listed = list(choices)
    if value not in listed:
        names = ", ".join("null" if choice is None else str(choice) for choice in listed)
        raise ConfigError(f"{option}={value}: expected one of {names}")


def existing_file(path: str) -> Path:
    """The path, if it is a readable file with something in it. Raises DataError naming what stands there instead."""
    file = Path(path)
    if not file.exists():
        raise DataError(f"{path}: no such file; check data.path")
    if file.is_dir():
        raise DataError(f"{path}: is a directory, expected a data file; name one file in it")
    if file.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")
    return file
