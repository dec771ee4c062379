"""Raw rows of data files, read exactly: JSON arrays, JSON Lines, CSV, Parquet, `datasets` folders and hub names.

A fault that spoils one row alone (a JSON line, an element of a JSON array) goes to `reject`, which raises it or counts
it. After a fault that hides where the next row starts (a broken array, a stray quote in CSV) the reading always ends.

Not here: what the fields mean; see `models.reading` and the readers of each room.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from models.errors import DataError, Origin, existing_file
from models.lines import BOM, MalformedRow, Reject, decode, lines, lower, open_bytes, unbroken
from models.tables import read_csv, read_hub_dataset, read_parquet, read_saved_dataset

RawRows = Iterator[tuple[Origin, dict[str, Any]]]


def read_rows(path: str, reject: Reject, *, streaming: bool = False) -> RawRows:
    """Each row with its origin; the file's ending says its form. Origins hold the line a row starts on, or its number
    where a form has no lines. streaming: rows of a hub data set come as they are needed, none is stored.

    Raises DataError for a file that is missing, empty, of an unknown kind or broken as a whole.
    """
    place, ending = Path(path), Path(path).suffix.lower()
    if (place / "state.json").is_file() or (place / "dataset_dict.json").is_file():
        return read_saved_dataset(path, reject)
    if _HUB_NAME.fullmatch(path) and ending not in _BY_SUFFIX and not place.parent.exists():
        return read_hub_dataset(path, reject, streaming=streaming)
    existing_file(path)
    if ending not in _BY_SUFFIX:
        raise DataError(f"{path}: unknown kind of file; the name must end in one of {', '.join(_BY_SUFFIX)}")
    return _BY_SUFFIX[ending](path, reject)


_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def _read_json(path: str, reject: Reject) -> RawRows:
    """`.json` holds an array or, as many published files do, one object a line."""
    with open_bytes(path) as file:
        head = file.read(64).removeprefix(BOM).lstrip()
    return _read_json_lines(path, reject) if head.startswith(b"{") else _read_json_array(path, reject)


def _read_json_lines(path: str, reject: Reject) -> RawRows:
    for line in lines(path, reject):
        text = line.text.strip(_BLANK)
        if not text:
            continue
        start = line.text.index(text)
        try:
            value, end = _value(line.text, start, line.origin)
            if line.text[end:].strip(_BLANK):
                raise _malformed(line.text, end, line.origin, "more text after the object")
            fields = _fields(value, line.origin)
            _check_escapes(line.text, start, end, line.origin, line.offset)
        except MalformedRow as fault:
            reject(fault if line.complete else _cut_off(fault))
        else:
            yield line.origin, fields


def _read_json_array(path: str, reject: Reject) -> RawRows:
    with open_bytes(path) as file:
        raw = file.read()
    offset = len(BOM) if raw.startswith(BOM) else 0
    top = Origin(path, 1)
    text = decode(raw.removeprefix(BOM), top, offset)
    del raw
    for line, start, end, value in unbroken(_elements(text, top)):
        origin = Origin(path, line)
        try:
            fields = _fields(value, origin)
            _check_escapes(text, start, end, top, offset)
        except MalformedRow as fault:
            reject(fault)
        else:
            yield origin, fields


def _elements(text: str, top: Origin) -> Iterator[tuple[int, int, int, Any]]:
    """(line, start, end, value) of each element of the array that `text` must be."""
    at = _skip_blank(text, 0)
    if text[at : at + 1] != "[":
        raise _malformed(text, at, top, "expected an array of objects, or one object a line")
    at = _skip_blank(text, at + 1)
    line, counted, closed = 1, 0, text[at : at + 1] == "]"
    while not closed:
        line, counted = line + text.count("\n", counted, at), at
        value, end = _value(text, at, top)
        yield line, at, end, value
        at = _skip_blank(text, end)
        closed = text[at : at + 1] == "]"
        if not closed and text[at : at + 1] != ",":
            cut = at == len(text)
            raise _malformed(
                text, at, top, "the array is not closed, the file looks cut off" if cut else "expected ','"
            )
        at = at if closed else _skip_blank(text, at + 1)
    at = _skip_blank(text, at + 1)
    if at != len(text):
        raise _malformed(text, at, top, "more text after the array")


_BLANK = " \t\r\n"
_BLANKS = re.compile(f"[{_BLANK}]*")


def _skip_blank(text: str, at: int) -> int:
    match = _BLANKS.match(text, at)
    return match.end() if match else at


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {max(names, key=names.count)!r} stands twice in one object")
    return fields


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_names)


def _value(text: str, at: int, top: Origin) -> tuple[Any, int]:
    """The JSON value that starts at `at`, and where it ends."""
    try:
        return _DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise _malformed(text, error.pos, top, error.msg) from error
    except (ValueError, RecursionError) as error:  # a name that stands twice, a number too long, nesting too deep
        raise _malformed(text, at, top, str(error)) from error


def _malformed(text: str, at: int, top: Origin, problem: str) -> MalformedRow:
    before = text[:at]
    column = at - before.rfind("\n")
    return MalformedRow(lower(top, before.encode()), "malformed JSON", f"column {column}: malformed JSON: {problem}")


def _cut_off(fault: MalformedRow) -> MalformedRow:
    fault.args = (f"{fault} (no line end follows: the file looks cut off)",)
    return fault


def _fields(value: Any, origin: Origin) -> dict[str, Any]:
    if not isinstance(value, dict):
        got = "null" if value is None else type(value).__name__
        raise MalformedRow(origin, "not an object", f"column 1: expected an object with named fields, got {got}")
    return value


# A quick look that misses nothing: NUL, halves without their other half, and any that an escaped backslash disguises.
_SUSPECT = re.compile(
    r"\\(?:u0000|\\u[dD]|u[dD][89abAB]..(?!\\u[dD][c-fC-F])|u[dD][c-fC-F](?<!\\u[dD][89abAB]..\\u[dD][c-fC-F]))"
)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)")


def _check_escapes(text: str, start: int, end: int, top: Origin, offset: int) -> None:
    """Raise MalformedRow for an escape in text[start:end] that is NUL or half a character (a lone surrogate).

    `text` starts at `top` and at byte `offset` of the file.
    """
    bad = _bad_escape(text, start, end) if _SUSPECT.search(text, start, end) else None
    if bad is not None:
        reason = "NUL" if bad[1] == "0000" else "lone surrogate"
        before = text[: bad.start()].encode()
        raise MalformedRow(
            lower(top, before), reason, f"byte {offset + len(before)}: {bad[0]} is no character ({reason})"
        )


def _bad_escape(text: str, start: int, end: int) -> re.Match[str] | None:
    high: re.Match[str] | None = None  # its low half must follow at once
    for escape in _ESCAPE.finditer(text, start, end):
        code = int(escape[1] or "20", 16)
        completes = high is not None and 0xDC00 <= code <= 0xDFFF and high.end() == escape.start()
        if high is not None and not completes:
            return high
        if code == 0 or (0xDC00 <= code <= 0xDFFF and not completes):
            return escape
        high = escape if 0xD800 <= code <= 0xDBFF else None
    return high


_BY_SUFFIX: dict[str, Callable[[str, Reject], RawRows]] = {
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
}
