"""The instructions of a file, each with the row that holds it as it stands there."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from instruct.audit.texts import words
from instruct.readers import InstructionData, instruction_reader
from instruct.records import Instruction
from instruct.sources import WORLD, instructions
from models.chat import Prompt
from models.errors import DataError, Origin
from models.reading import Reading, Row, read_records
from models.split import text_key


@dataclass(frozen=True)
class Item:
    """One instruction. `row` is the place of its row in `Source.rows`, `line` the row's number in the file."""

    row: int
    line: int
    messages: Prompt
    instruction: str  # what is asked first, without its input
    given: str  # its input, maybe empty
    name: str | None = None  # the row's `id`

    @property
    def prompt(self) -> Prompt:
        """All before the last reply."""
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        return self.messages[-1].content

    @functools.cached_property
    def prompt_key(self) -> str:
        """Names the whole prompt up to case, spacing and width of letters."""
        return "\n\n".join(f"{turn.role}\n{text_key(turn.content)}" for turn in self.prompt)

    @functools.cached_property
    def asked_words(self) -> list[str]:
        return words("\n".join(turn.content for turn in self.prompt))

    @functools.cached_property
    def instruction_words(self) -> list[str]:
        return words(self.instruction)

    @functools.cached_property
    def answer_words(self) -> list[str]:
        return words(self.answer)


@dataclass(frozen=True)
class SourceRow:
    """A row of a file: its fields as they stand, and what its reader made of it."""

    origin: Origin
    fields: Mapping[str, Any]
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True)
class Source:
    """A file that was read: its usable rows, their instructions, and the account of the reading."""

    rows: list[SourceRow]
    items: list[Item]
    reading: Reading


def read_source(data: InstructionData) -> Source:
    """Every row of a source; the embedded world's rows are Alpaca rows. Raises DataError where none can be used."""
    reading = Reading(data.path, data.on_bad_row, data.on_unusable, data.on_duplicate_id)
    rows = _world_rows(data, reading) if data.path == WORLD else _file_rows(data, reading)
    if not rows:
        counts = ", ".join(f"{reason} {len(lines)}" for reason, lines in reading.dropped.items()) or "it holds none"
        raise DataError(f"{data.path}: no usable row among {reading.n_rows} ({counts}); choose the data= that fits it")
    if len({row.origin.line for row in rows}) < len(rows):  # an array that stands on one line: rows are counted instead
        rows = [dataclasses.replace(row, origin=Origin(data.path, i)) for i, row in enumerate(rows, 1)]
    items = [_item(i, row, instruction) for i, row in enumerate(rows) for instruction in row.instructions]
    return Source(rows, items, reading)


def _file_rows(data: InstructionData, reading: Reading) -> list[SourceRow]:
    reader = instruction_reader(data)

    def whole(row: Row) -> list[SourceRow]:
        return [SourceRow(row.origin, row.fields, tuple(reader(row)))]

    return list(islice(read_records(reading, whole), data.limit))


def _world_rows(data: InstructionData, reading: Reading) -> list[SourceRow]:
    whole = dataclasses.replace(data, eval_fraction=0.0, eval_path=None)
    rows = []
    for instruction in instructions(whole).train:
        asked, answer = (turn.content for turn in instruction.messages)
        fields = {"instruction": asked, "input": "", "output": answer}
        rows.append(SourceRow(instruction.origin, fields, (instruction,)))
    reading.n_kept = reading.n_records = len(rows)
    return rows


def _item(row: int, source: SourceRow, instruction: Instruction) -> Item:
    asked = next(turn.content for turn in instruction.messages if turn.role == "user")
    task = source.fields.get("instruction")
    task = task if isinstance(task, str) and asked.startswith(task) else asked
    name = source.fields.get("id")
    return Item(
        row=row,
        line=source.origin.line,
        messages=instruction.messages,
        instruction=task,
        given=asked[len(task) :].strip(),
        name=str(name) if isinstance(name, str | int) else None,
    )


def write_rows(path: Path, rows: Iterable[SourceRow]) -> None:
    """The rows as JSON lines with all their fields, so that the form which read them reads them again."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row.fields, ensure_ascii=False, default=str) + "\n")  # str: dates of Parquet files
