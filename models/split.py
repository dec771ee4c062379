"""Training and evaluation records of a data source, split by prompt.

The side of a record follows from a hash of its prompt alone: rows added later move no row, one prompt never stands on
both sides, and every stage that reads the same prompts with the same seed holds out the same ones.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, Protocol, TypeVar

from models.chat import Message
from models.errors import ConfigError, DataError, Origin
from models.options import INPUT
from models.reading import Reading, Row, read_records


class _Sourced(Protocol):
    @property
    def origin(self) -> Origin: ...


Record = TypeVar("Record", bound=_Sourced)
Sided = TypeVar("Sided")


@dataclass(kw_only=True)
class DataSource:
    """Where records come from, and what becomes of rows that cannot be used."""

    path: str = field(
        metadata=INPUT
    )  # a .json, .jsonl, .csv, .tsv or .parquet file, a folder of save_to_disk, or a hub name
    on_bad_row: str = "error"  # malformed or wrong rows: error, or skip (left out, counted)
    on_unusable: str = "error"  # well-formed rows that teach nothing, such as empty replies: error, or drop (counted)
    on_duplicate_id: str = "error"  # an `id` that an earlier row has: error, drop (counted), or keep
    limit: int | None = None  # at most so many records of a file, from its first on
    eval_fraction: float = 0.05  # share of prompts held out for evaluation where eval_path names no file, in [0, 1)
    eval_path: str | None = field(default=None, metadata=INPUT)  # a file of its own for evaluation
    on_overlap: str = "error"  # prompts of eval_path that also stand in path: error, or drop (from training, counted)
    seed: int = 0  # of the split by prompt

    def __post_init__(self) -> None:
        check_choice("on_bad_row", self.on_bad_row, ("error", "skip"))
        check_choice("on_unusable", self.on_unusable, ("error", "drop"))
        check_choice("on_duplicate_id", self.on_duplicate_id, ("error", "drop", "keep"))
        check_choice("on_overlap", self.on_overlap, ("error", "drop"))
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"data.limit={self.limit}: must be 1 or more, or null for all")
        if not 0 <= self.eval_fraction < 1:
            raise ConfigError(f"data.eval_fraction={self.eval_fraction}: must lie in [0, 1)")


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise ConfigError unless `value` of the option data.`name` is one of `allowed`."""
    if value not in allowed:
        raise ConfigError(f"data.{name}={value}: must be one of {', '.join(allowed)}")


@dataclass(frozen=True)
class Split(Generic[Sided]):
    """Records of both sides, in the order of their files, and how they were read."""

    train: list[Sided]
    eval: list[Sided]
    readings: tuple[Reading, ...]  # of path, and of eval_path where there is one

    def __str__(self) -> str:
        sides = f"{len(self.train)} for training, {len(self.eval)} for evaluation"
        return "; ".join([*map(str, self.readings), sides])


def read_split(data: DataSource, reader: Callable[[Row], list[Record]], key: Callable[[Record], str]) -> Split[Record]:
    """Read a source and split it. `key` names a record's prompt; records with one key stay together.

    Raises DataError where no row is left, where none is left for training, and where the files of training and
    evaluation overlap (unless `on_overlap=drop`).
    """
    reading = Reading(data.path, data.on_bad_row, data.on_unusable, data.on_duplicate_id)
    records = _read_all(reading, reader, data.limit)
    if data.eval_path is None:
        held = [record for record in records if held_out(key(record), data.eval_fraction, data.seed)]
        readings: tuple[Reading, ...] = (reading,)
    else:
        eval_reading = Reading(data.eval_path, data.on_bad_row, data.on_unusable, data.on_duplicate_id)
        held = _read_all(eval_reading, reader, data.limit)
        readings = (reading, eval_reading)
    held_keys = {key(record) for record in held}
    train = [record for record in records if key(record) not in held_keys]
    if data.eval_path is not None:
        _judge_overlap([record for record in records if key(record) in held_keys], reading, data)
    if not train:
        raise DataError(
            f"{data.path}: all {len(records)} records are held out for evaluation; none is left to train on"
        )
    return Split(train, held, readings)


@dataclass(frozen=True)
class Stream(Generic[Sided]):
    """Records of a source that does not fit into memory: the held-out ones, and passes over the others."""

    one_pass: Callable[[], Iterator[Sided]]
    eval: list[Sided]
    readings: tuple[Reading, ...]  # of the newest pass, and of eval_path where there is one


def read_stream(
    data: DataSource, reader: Callable[[Row], list[Record]], key: Callable[[Record], str], *, n_eval: int
) -> Stream[Record]:
    """A source as a stream. Evaluation has eval_path, or the first `n_eval` held-out records; training has none of
    those that a split would hold out."""
    eval_reading = Reading(data.eval_path or data.path, data.on_bad_row, data.on_unusable, data.on_duplicate_id)
    held_keys: set[str] = set()
    if data.eval_path is not None:
        held = _read_all(eval_reading, reader, data.limit)
        held_keys = {key(record) for record in held}
    else:
        eval_reading.streaming = True
        records = islice(read_records(eval_reading, reader), data.limit)
        held_out_ones = (r for r in records if held_out(key(r), data.eval_fraction, data.seed))
        held = list(islice(held_out_ones, n_eval)) if data.eval_fraction else []
    reading = Reading(data.path, data.on_bad_row, data.on_unusable, data.on_duplicate_id, streaming=True)

    def one_pass() -> Iterator[Record]:
        reading.clear()
        for record in islice(read_records(reading, reader), data.limit):
            if data.eval_path is None and held_out(key(record), data.eval_fraction, data.seed):
                continue
            if key(record) in held_keys:
                _judge_overlap([record], reading, data)
            else:
                yield record

    return Stream(one_pass, held, (reading,))


def _read_all(reading: Reading, reader: Callable[[Row], list[Record]], limit: int | None) -> list[Record]:
    records = list(islice(read_records(reading, reader), limit))
    if not records:
        counts = ", ".join(f"{reason} {len(lines)}" for reason, lines in reading.dropped.items()) or "it holds none"
        raise DataError(
            f"{reading.path}: no usable row among {reading.n_rows} ({counts}); choose the data= that fits it"
        )
    return records


def _judge_overlap(shared: Sequence[Record], reading: Reading, data: DataSource) -> None:
    if shared and data.on_overlap == "error":
        raise DataError(
            f"{shared[0].origin}: this prompt also stands in {data.eval_path}, as do those of {len(shared) - 1} more "
            "records; remove them, or leave them out of training with data.on_overlap=drop"
        )
    for record in shared:
        reading.notes["prompt of the evaluation file, left out of training"].append(record.origin.line)


def held_out(key: str, fraction: float, seed: int) -> bool:
    """Whether the prompt with this key belongs to evaluation. A larger fraction holds out the same prompts and more."""
    digest = hashlib.sha256(f"{seed}\n{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def prompt_key(messages: Sequence[Message]) -> str:
    """Names a conversation by its opening, the turns before the first reply, up to case, spacing and width of letters.

    The opening alone, so that conversations which share it, and a conversation and its continuation, stay together.
    """
    turns = []
    for message in messages:
        if message.role == "assistant":
            break
        turns.append(f"{message.role}\n{text_key(message.content)}")
    return "\n\n".join(turns)


def text_key(text: str) -> str:
    """The text without differences of case, spacing and width of letters."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
