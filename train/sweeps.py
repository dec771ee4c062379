"""What a sweep's folder says of it: its stage, what is the same at all of its points, what varies, and what counts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from models.errors import DataError
from train.artifact import write_json
from train.points import Outcome, read_outcome

RECORD = "sweep.json"


@dataclass
class SweepRecord:
    """sweep.json. maximize, minimize: metrics that are its objectives. points: the options that vary, by name."""

    stage: str
    fixed: list[str]
    maximize: list[str]
    minimize: list[str]
    points: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def objectives(self) -> list[str]:
        return [*self.maximize, *self.minimize]

    @property
    def varied(self) -> list[str]:
        """The options that vary, in the order in which points brought them."""
        return list(dict.fromkeys(option for options in self.points.values() for option in options))

    def outcomes(self, folder: Path) -> dict[str, Outcome]:
        return {name: read_outcome(folder / name) for name in self.points}

    def write(self, folder: Path) -> None:
        write_json(folder / RECORD, asdict(self))


def read_sweep(folder: Path) -> SweepRecord | None:
    """The record in a folder; None where no sweep has been there. Raises DataError where it is broken."""
    try:
        return SweepRecord(**json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise DataError(f"{folder / RECORD}: broken ({error}); remove it and type the sweep again") from error


def short_names(options: list[str]) -> dict[str, str]:
    """The shortest ending of each option's full name that no other has: `learning_rate` of `trainer.learning_rate`."""
    plain = {option: option.lstrip("+").rpartition("@")[2].split(".") for option in options}

    def ending(option: str, size: int) -> str:
        return ".".join(plain[option][-size:])

    sizes = range(1, max((len(parts) for parts in plain.values()), default=0) + 1)
    return {
        option: next(
            (ending(option, n) for n in sizes if all(ending(option, n) != ending(o, n) for o in plain if o != option)),
            option,
        )
        for option in options
    }
