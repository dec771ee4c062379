"""Which rows go: those with a mark that the policy names, and those beyond its bounds."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from instruct.audit.checks import Findings
from instruct.audit.duplicates import duplicate_ids, duplicates, near
from instruct.audit.kinds import KINDS, Marks
from instruct.audit.source import Item
from instruct.language import LANGUAGES
from models.errors import ConfigError

LANGUAGE = "language:"


class Reason(NamedTuple):
    """Why a row goes: what the policy calls it, and what was seen in this row."""

    name: str
    why: str


@dataclass(frozen=True)
class Policy:
    """drop: kinds of marks, and `language:<code>`. Bounds are of answers; None is no bound."""

    drop: Sequence[str]
    max_words: int | None
    max_loss: float | None
    min_difficulty: float | None
    near_duplicate: float

    def check(self, given: Collection[str]) -> None:
        """Raise ConfigError for a name that nothing marks, and for one whose option is not among `given`."""
        for name in self.drop:
            if name not in (known := [*KINDS, *(LANGUAGE + code for code in LANGUAGES)]):
                close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
                raise ConfigError(f"drop={name}: nothing is marked so; did you mean {close}?")
            if name in KINDS and (needed := KINDS[name].needs) and needed not in given:
                raise ConfigError(f"drop={name}: nobody looks for it without {needed}; say {needed}=...")
        for name in ("max_loss", "min_difficulty"):
            if getattr(self, name) is not None and "model.path" not in given:
                raise ConfigError(f"{name}={getattr(self, name)}: needs a model; say model.path=...")
        if self.max_words is not None and self.max_words < 1:
            raise ConfigError(f"max_words={self.max_words}: must be 1 or more, or null")


def dropped_rows(found: Findings, policy: Policy) -> dict[int, Reason]:
    """The rows that go, by their place in the source.

    Repetitions are looked for last, among the rows that are left, so that of equal rows the first good one stays.
    """
    gone: dict[int, Reason] = {}
    for name in policy.drop:
        if name not in _repetitions(policy):
            for i, why in _marked(found, name):
                gone.setdefault(found.items[i].row, Reason(name, why))
    for i, reason in _beyond(found, policy):
        gone.setdefault(found.items[i].row, reason)
    for name, find in _repetitions(policy).items():
        if name in policy.drop:
            left = [item for item in found.items if item.row not in gone]
            for i, why in find(left).items():
                gone.setdefault(left[i].row, Reason(name, why))
    return dict(sorted(gone.items()))


def write_dropped(path: Path, found: Findings, gone: dict[int, Reason]) -> None:
    """A JSON line for each row that is not kept, in the order of the file: its line, the reason, and what was seen."""
    rows = [(found.source.rows[row].origin.line, reason.name, reason.why) for row, reason in gone.items()]
    rows += [(line, reason, "not read") for reason, lines in found.source.reading.dropped.items() for line in lines]
    with path.open("w", encoding="utf-8") as file:
        for line, reason, why in sorted(rows):
            file.write(json.dumps({"line": line, "reason": reason, "why": why}, ensure_ascii=False) + "\n")


def counts(found: Findings, gone: dict[int, Reason]) -> dict[str, int]:
    """Rows dropped for each reason, those that could not be read included."""
    unread = {reason: len(lines) for reason, lines in found.source.reading.dropped.items()}
    return unread | dict(Counter(reason.name for reason in gone.values()).most_common())


def _repetitions(policy: Policy) -> dict[str, Callable[[list[Item]], Marks]]:
    return {
        "duplicate": duplicates,
        "duplicate_id": duplicate_ids,
        "near_duplicate": lambda items: near(items, policy.near_duplicate, duplicates(items)),
    }


def _marked(found: Findings, name: str) -> Iterator[tuple[int, str]]:
    if name.startswith(LANGUAGE):
        code = name.removeprefix(LANGUAGE)
        return ((i, "a guess") for i, guessed in enumerate(found.languages) if guessed == code)
    return iter(found.marks[name].items())


def _beyond(found: Findings, policy: Policy) -> Iterator[tuple[int, Reason]]:
    """Items beyond a bound; one that has no value is within."""
    bounds = (
        ("max_words", "answer_words", policy.max_words, lambda value, bound: value > bound),
        ("max_loss", "loss", policy.max_loss, lambda value, bound: value > bound),
        ("min_difficulty", "difficulty", policy.min_difficulty, lambda value, bound: value < bound),
    )
    for name, measure, bound, is_beyond in bounds:
        for i, value in enumerate(found.measures[measure] if bound is not None else ()):
            if value is not None and is_beyond(value, bound):
                yield i, Reason(name, f"{value:.4g}")
