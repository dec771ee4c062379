"""Rows as an audit reads them, from plain dicts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tiny_data import written

from instruct.audit.checks import Findings, Limits, check
from instruct.audit.contamination import read_evaluation_prompts
from instruct.audit.source import Source, read_source
from instruct.audit.toxicity import listed_words
from instruct.readers import InstructionData


def asked(instruction: str, output: str, given: str = "", **more: Any) -> dict[str, Any]:
    """An Alpaca row."""
    return {"instruction": instruction, "input": given, "output": output, **more}


def source(rows: Iterable[dict[str, Any]], form: str = "alpaca", **options: Any) -> Source:
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder) / "rows.jsonl", rows)
        return read_source(InstructionData(**{"format": form, "path": path, "on_duplicate_id": "keep", **options}))


def audited(
    rows: Iterable[dict[str, Any]], against: Iterable[dict[str, Any]] = (), limits: Limits | None = None
) -> Findings:
    """Everything that the texts alone show."""
    limits = limits or Limits()
    with tempfile.TemporaryDirectory() as folder:
        prompts = [written(Path(folder) / "questions.jsonl", against)] if against else []
        evaluation = read_evaluation_prompts(prompts, limits.ngram, "error", "error") if prompts else None
    return check(source(rows), evaluation, listed_words, limits, seed=0)


def marked(found: Findings, name: str) -> list[int]:
    """Line numbers of the rows with a mark."""
    return [found.source.rows[row].origin.line for row in found.marked_rows(name)]
