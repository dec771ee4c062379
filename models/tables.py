"""Rows of tables: CSV with a header, Parquet files, folders of `datasets`' `save_to_disk`, and hub names."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from models.errors import DataError, Origin
from models.lines import MalformedRow, Reject, lines, unbroken


def read_csv(path: str, reject: Reject) -> Iterator[tuple[Origin, dict[str, Any]]]:
    """CSV as in RFC 4180, or tab-separated for `.tsv`. Every value is a text; quoted line ends stay as they are.

    A line that is not text ends the reading: past it nobody knows where the next row starts.
    """
    csv.field_size_limit(sys.maxsize)
    delimiter = "\t" if Path(path).suffix.lower() == ".tsv" else ","
    text = (f"{line.text}\n" for line in lines(path, _raise))
    table = unbroken(_table_rows(csv.reader(text, delimiter=delimiter, strict=True), path))
    _, header = next(table, (0, []))
    if not all(header) or len(set(header)) < len(header):
        raise DataError(f"{path}:1: expected a header of distinct column names, got {header}; name every column")
    for number, values in table:
        if len(values) != len(header):
            detail = f"expected {len(header)} values, as in the header, got {len(values)}"
            reject(MalformedRow(Origin(path, number), "wrong number of values", detail))
        else:
            yield Origin(path, number), dict(zip(header, values, strict=True))


def _table_rows(table: Any, path: str) -> Iterator[tuple[int, list[str]]]:
    """(line on which it starts, values) of each row that is not empty."""
    number = 1
    try:
        for values in table:
            if values:
                yield number, values
            number = table.line_num + 1
    except csv.Error as error:
        raise MalformedRow(Origin(path, number), "malformed CSV", f"malformed CSV: {error}") from error


def _raise(fault: MalformedRow) -> None:
    raise fault


def read_parquet(path: str, reject: Reject) -> Iterator[tuple[Origin, dict[str, Any]]]:
    """A Parquet file, a thousand rows at a time."""
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - slow to import, and for this form alone

    try:
        batches = ParquetFile(path).iter_batches(batch_size=1000)
        yield from _numbered((row for batch in batches for row in batch.to_pylist()), path, reject)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({_first_line(error)})") from error


def read_saved_dataset(path: str, reject: Reject) -> Iterator[tuple[Origin, dict[str, Any]]]:
    """A folder made by `datasets.Dataset.save_to_disk`."""
    from datasets import DatasetDict, load_from_disk  # noqa: PLC0415

    try:
        loaded = load_from_disk(path)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: not a readable folder of save_to_disk ({_first_line(error)})") from error
    if isinstance(loaded, DatasetDict):
        raise DataError(f"{path}: holds the splits {', '.join(loaded)}; name one, such as {path}/{next(iter(loaded))}")
    yield from _numbered(loaded, path, reject)


def read_hub_dataset(name: str, reject: Reject, *, streaming: bool = False) -> Iterator[tuple[Origin, dict[str, Any]]]:
    """The `train` split of a data set on the hub or, with HF_HUB_OFFLINE=1, of its copy in the local cache."""
    from datasets import load_dataset  # noqa: PLC0415
    from huggingface_hub import HfApi, constants  # noqa: PLC0415

    try:
        if not constants.HF_HUB_OFFLINE:
            HfApi().dataset_info(name, timeout=10)  # fails at once, where load_dataset retries for half a minute
        loaded = load_dataset(name, split="train", streaming=streaming)
    except Exception as error:  # the libraries have a dozen kinds for an unknown name, no network, an odd layout
        why = f"{type(error).__name__}: {_first_line(error)}"
        raise DataError(f"{name}: no such file, nor a hub data set within reach ({why}); name a local file") from error
    yield from _numbered(loaded, name, reject)


def _numbered(rows: Iterable[Any], path: str, reject: Reject) -> Iterator[tuple[Origin, dict[str, Any]]]:
    for number, fields in enumerate(rows, 1):
        origin = Origin(path, number)
        if any("\0" in text for text in _texts(fields)):
            reject(MalformedRow(origin, "NUL", "a NUL character in the text"))
        else:
            yield origin, fields


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]
