"""The report of an experiment: one HTML file that holds everything, for a reader who asks whether the model got better.

Nothing is loaded from elsewhere, nothing runs, and whatever a model wrote is shown as text.
"""

from __future__ import annotations

import os
from pathlib import Path

from evals.page import render
from evals.results import Report


def write_report(path: str | Path, report: Report) -> Path:
    """Writes the page to `path` and returns the path."""
    return write_page(path, render(report))


def write_page(path: str | Path, page: str) -> Path:
    """Writes a page to `path` (its folder is made), whole or not at all, and returns the path."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    unfinished.write_text(page, encoding="utf-8")
    unfinished.replace(target)
    return target
