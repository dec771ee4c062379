"""One pass over a data file: which rows became records, which were dropped and why, and what nobody read.

A reader turns a `Row` into records. What it cannot use it raises: `BadRow` for a wrong row (a field missing, of the
wrong type, out of range), `UnusableRow` for a well-formed row that teaches nothing (an empty reply, equal answers).
`Reading` holds the policy for both, counts, and says it all once.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from models.errors import BadRow, DataError, Origin
from models.lines import MalformedRow
from models.rows import read_rows

Record = TypeVar("Record")

N_LISTED = 100  # rows listed for each reason in a manifest; all are counted


class UnusableRow(DataError):
    """A well-formed row that teaches nothing."""

    def __init__(self, origin: Origin, reason: str) -> None:
        self.origin, self.reason = origin, reason
        super().__init__(f"{origin}: {reason}")


class FilteredRow(UnusableRow):
    """A row that the configuration leaves out: counted, never an error."""


class _Nothing:
    def __repr__(self) -> str:
        return "nothing"


class Row:
    """One row's fields, checked as they are read. It remembers what was read, so that the rest can be told.

    `within` is the path of a nested row in its file's row, such as `responses[2].`.
    """

    def __init__(self, origin: Origin, fields: Mapping[str, Any], within: str = "") -> None:
        self.origin = origin
        self.notes: list[str] = []  # what a reader changed in the row to use it
        self._fields, self._within = fields, within
        self._read: set[str] = set()
        self._nested: list[Row] = []

    @property
    def id(self) -> Any:
        """The field `id`, which no reader needs; None where it is missing."""
        return self._fields.get("id")

    @property
    def fields(self) -> Mapping[str, Any]:
        """The whole row as it stands in its file; looking at it reads none of its fields."""
        return self._fields

    def has(self, name: str) -> bool:
        """Whether the field stands in the row, null or not."""
        return name in self._fields

    def value(self, name: str) -> Any:
        """The field as it stands; an object whose repr is `nothing` where it is missing."""
        self._read.add(name)
        return self._fields.get(name, _Nothing())

    def text(self, name: str) -> str:
        """The field's text, which may be empty."""
        value = self.value(name)
        if not isinstance(value, str):
            raise self.bad(name, "a text")
        return value

    def filled(self, name: str) -> str:
        """The field's text. Raises UnusableRow where it is empty or blank."""
        text = self.text(name)
        if not text.strip():
            raise UnusableRow(self.origin, f"empty {_pattern(self._within + name)}")
        return text

    def values(self, name: str) -> list[Any]:
        """The field's list."""
        value = self.value(name)
        if not isinstance(value, list):
            raise self.bad(name, "a list")
        return value

    def rows(self, name: str) -> list[Row]:
        """The field's list of objects, each a row of its own."""
        return [self.element(name, i) for i in range(len(self.values(name)))]

    def element(self, name: str, index: int) -> Row:
        """One object of the field's list as a row of its own."""
        return self._nest(f"{name}[{index}]", self.values(name)[index])

    def row(self, name: str) -> Row:
        """The field's object as a row of its own."""
        return self._nest(name, self.value(name))

    def bad(self, name: str, expected: str) -> BadRow:
        """The error for a field that is not what the reader expects."""
        return BadRow(self.origin, self._within + name, expected, self._fields.get(name, _Nothing()))

    def unread(self) -> set[str]:
        """Names of the fields that no reader asked for, nested ones by their path."""
        here = {_pattern(self._within + name) for name in self._fields if name not in self._read}
        return here.union(*(nested.unread() for nested in self._nested))

    def _nest(self, place: str, value: Any) -> Row:
        if not isinstance(value, dict):
            raise BadRow(self.origin, self._within + place, "an object with named fields", value)
        self._nested.append(Row(self.origin, value, f"{self._within}{place}."))
        return self._nested[-1]


def _pattern(place: str) -> str:
    return re.sub(r"\[\d+\]", "[]", place)


@dataclass
class Reading:
    """What a pass over `path` kept, dropped and noticed.

    on_bad_row: `error` ends the reading at a malformed or wrong row, `skip` counts it.
    on_unusable: `error` ends the reading at a row that teaches nothing, `drop` counts it. `skip` above includes it.
    on_duplicate_id: `error` ends the reading at an `id` that an earlier row has, `drop` counts it, `keep` allows it.
    """

    path: str
    on_bad_row: str = "error"
    on_unusable: str = "error"
    on_duplicate_id: str = "error"
    streaming: bool = False  # a hub data set is not downloaded first
    n_kept: int = 0  # rows that became records
    n_records: int = 0  # more than rows where a row holds several
    dropped: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))  # reason -> lines
    notes: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))  # what was changed in kept rows
    unread: Counter[str] = field(default_factory=Counter)  # fields that nothing used -> rows that have them
    ids: dict[str, int] = field(default_factory=dict)  # id -> line of the row that has it

    @property
    def n_dropped(self) -> int:
        return sum(map(len, self.dropped.values()))

    @property
    def n_rows(self) -> int:
        """Rows met: kept and dropped together."""
        return self.n_kept + self.n_dropped

    def reject(self, fault: MalformedRow | BadRow | UnusableRow) -> None:
        """Count the row, or raise the fault with what to do about it."""
        skipped = self.on_bad_row == "skip"
        dropped = isinstance(fault, FilteredRow) or (isinstance(fault, UnusableRow) and self.on_unusable == "drop")
        if not skipped and not dropped:
            option = "data.on_unusable=drop" if isinstance(fault, UnusableRow) else "data.on_bad_row=skip"
            fault.args = (f"{fault}; mend the row, or leave such rows out with {option}",)
            raise fault
        reason = f"{_pattern(fault.field)}: not {fault.expected}" if isinstance(fault, BadRow) else fault.reason
        self.dropped[reason].append(fault.origin.line)

    def check_id(self, row: Row) -> None:
        """Raise the fault of a row whose `id` an earlier row has, by the policy. A stream's ids are not remembered."""
        if self.on_duplicate_id == "keep" or self.streaming or row.id is None:
            return
        first = self.ids.setdefault(repr(row.id), row.origin.line)
        if first == row.origin.line:
            return
        if self.on_duplicate_id == "drop":
            raise FilteredRow(row.origin, "id of an earlier row")
        raise DataError(
            f"{row.origin}:id: {row.id!r} is also the id of line {first}; make ids unique, or say "
            "data.on_duplicate_id=drop (keeps the first) or keep (all of them)"
        )

    def keep(self, row: Row, n_records: int) -> None:
        """Count a row that became `n_records` records."""
        self.n_kept += 1
        self.n_records += n_records
        self.unread.update(row.unread())
        for note in dict.fromkeys(row.notes):
            self.notes[note].append(row.origin.line)

    def clear(self) -> None:
        """Forget what was counted, for another pass."""
        self.n_kept = self.n_records = 0
        for counted in (self.dropped, self.notes, self.unread, self.ids):
            counted.clear()

    def counts(self) -> dict[str, Any]:
        """All of it as plain values for a manifest; at most N_LISTED lines are listed for each reason."""
        return {
            "path": self.path,
            "rows": self.n_rows,
            "kept": self.n_kept,
            "records": self.n_records,
            "dropped": {reason: _listed(lines) for reason, lines in self.dropped.items()},
            "notes": {note: _listed(lines) for note, lines in self.notes.items()},
            "unread_fields": dict(self.unread),
        }

    def __str__(self) -> str:
        """One line that says it all."""
        parts = [f"{self.path}: {self.n_kept} of {self.n_rows} rows kept"]
        if self.n_records != self.n_kept:
            parts.append(f"{self.n_records} records")
        parts += [f"dropped: {', '.join(map(_said, self.dropped.items()))}"] if self.dropped else []
        parts += [f"noted: {', '.join(map(_said, self.notes.items()))}"] if self.notes else []
        if self.unread:
            parts.append(f"fields not used: {', '.join(sorted(self.unread))}")
        return "; ".join(parts)


def _listed(lines: Sequence[int]) -> dict[str, Any]:
    return {"rows": len(lines), "lines": list(lines[:N_LISTED])}


def _said(counted: tuple[str, Sequence[int]]) -> str:
    reason, lines = counted
    shown = ", ".join(map(str, lines[:3])) + (", …" if len(lines) > 3 else "")
    return f"{reason} {len(lines)} (line {shown})"


def read_records(reading: Reading, reader: Callable[[Row], list[Record]]) -> Iterator[Record]:
    """The records of `reading.path`, one pass, in the file's order; `reading` counts as they come."""
    for origin, fields in read_rows(reading.path, reading.reject, streaming=reading.streaming):
        row = Row(origin, fields)
        try:
            reading.check_id(row)
            records = reader(row)
        except (BadRow, UnusableRow) as fault:
            reading.reject(fault)
            continue
        reading.keep(row, len(records))
        yield from records
