"""Lines of a text file, decoded strictly.

A line ends at \\n and nowhere else, so U+2028, form feeds and the like inside a text stay text. NUL and bytes that are
not UTF-8 are faults with line and byte offset, never replaced. A byte order mark at the start is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

from models.errors import DataError, Origin

BOM = b"\xef\xbb\xbf"


class MalformedRow(DataError):
    """A row that cannot be read at all. `reason` is the short form under which such rows are counted."""

    def __init__(self, origin: Origin, reason: str, detail: str) -> None:
        self.origin, self.reason = origin, reason
        super().__init__(f"{origin}, {detail}")


Reject = Callable[[MalformedRow], None]  # raises what it is given, or counts it and returns to have the row left out


class Line(NamedTuple):
    """One line without its \\n."""

    origin: Origin
    offset: int  # of its first byte in the file
    text: str
    complete: bool  # whether a line end follows


def lines(path: str, reject: Reject) -> Iterator[Line]:
    """Every line of the file; one that is not text goes to `reject`."""
    offset = 0
    with open_bytes(path) as file:
        for number, raw in enumerate(file, 1):
            start, offset = offset, offset + len(raw)
            body = raw.removesuffix(b"\n")
            if number == 1 and body.startswith(BOM):
                body, start = body.removeprefix(BOM), len(BOM)
            origin = Origin(path, number)
            try:
                text = decode(body, origin, start)
            except MalformedRow as fault:
                reject(fault)
                continue
            yield Line(origin, start, text, raw.endswith(b"\n"))


def open_bytes(path: str) -> BinaryIO:
    """The file, open for reading. Raises DataError where the system refuses."""
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def decode(raw: bytes, origin: Origin, offset: int) -> str:
    """The text of `raw`, which stands at `origin` from byte `offset` on. Raises MalformedRow where it is none."""
    if b"\0" in raw:
        at = raw.index(b"\0")
        hint = "; the file looks like UTF-16, save it as UTF-8" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise MalformedRow(lower(origin, raw[:at]), "NUL", f"byte {offset + at}: a NUL byte in the text{hint}")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        detail = f"byte {offset + error.start}: invalid UTF-8 ({error.reason}); save the file as UTF-8"
        raise MalformedRow(lower(origin, raw[: error.start]), "invalid UTF-8", detail) from error


Item = TypeVar("Item")


def unbroken(items: Iterator[Item]) -> Iterator[Item]:
    """The same items. A fault among them says that the file must be mended: where the next row starts is unknown."""
    try:
        yield from items
    except MalformedRow as fault:
        fault.args = (f"{fault}; mend the file, past this point no row can be found",)
        raise


def lower(origin: Origin, before: bytes) -> Origin:
    """`origin`, moved down by the line ends in `before`."""
    return Origin(origin.path, origin.line + before.count(b"\n"))
