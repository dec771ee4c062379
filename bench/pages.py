"""Tables of the benchmarks in the pages of docs/, each between two marks."""

from __future__ import annotations

import re
from pathlib import Path


def put(text: str, page: Path, name: str = "table") -> None:
    """The table between its marks on the page."""
    marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
    whole, between = page.read_text(encoding="utf-8"), f"{marks[0]}\n{text}\n{marks[1]}"
    start, end = map(re.escape, marks)
    page.write_text(re.sub(f"{start}.*{end}", lambda _: between, whole, flags=re.DOTALL), encoding="utf-8")
