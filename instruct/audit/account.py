"""What an audit found, as plain values: everything that is marked with row numbers, and how the data is spread."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from instruct.audit.checks import Findings, distinct, openings
from instruct.audit.clusters import effective_number
from instruct.audit.kinds import KINDS

N_OPENINGS = 50


def account(found: Findings) -> dict[str, Any]:
    """All of it but the texts. Row numbers are lines of the file, places in it where rows have no line of their own."""
    reading, items = found.source.reading, found.items
    marked = {row for name in found.marks for row in found.marked_rows(name)}
    return {
        "path": reading.path,
        "rows": {
            "read": reading.n_rows,
            "usable": reading.n_kept,
            "dropped": dict(reading.dropped),
            "noted": dict(reading.notes),
            "unused_fields": dict(reading.unread),
            "marked": len(marked),
        },
        "instructions": len(items),
        "marks": {name: _mark(found, name) for name in KINDS if name in found.marks},
        "not_looked_for": {name: kind.needs for name, kind in KINDS.items() if name not in found.marks},
        "measures": {name: summary(values) for name, values in found.measures.items()},
        "turns": dict(sorted(Counter(found.measures["turns"]).items())),
        "languages": _languages(found),
        "openings": dict(openings(items).most_common(N_OPENINGS)),
        "distinct": {
            "instruction": {n: distinct([item.instruction_words for item in items], n) for n in (1, 2)},
            "answer": {n: distinct([item.answer_words for item in items], n) for n in (1, 2)},
        },
        "clusters": [
            {"rows": sorted(items[i].line for i in cluster.members), "words": cluster.words}
            for cluster in found.clusters
        ],
        "effective_clusters": effective_number([len(cluster.members) for cluster in found.clusters]),
        "notes": found.notes,
    }


def summary(values: Sequence[float | None]) -> dict[str, float]:
    """Count, mean and quantiles of the known values."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return {"n": 0}
    at = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    quantiles = {name: known[round(share * (len(known) - 1))] for name, share in at.items()}
    return {"n": len(known), "mean": statistics.fmean(known), **quantiles}


def write_measures(path: Path, found: Findings) -> None:
    """A JSON line for each instruction: its row, cluster, language, and every measure."""
    cluster_of = {i: number for number, cluster in enumerate(found.clusters) for i in cluster.members}
    with path.open("w", encoding="utf-8") as file:
        for i, item in enumerate(found.items):
            values = {name: column[i] for name, column in found.measures.items()}
            line = {"line": item.line, "language": found.languages[i], "cluster": cluster_of[i], **values}
            file.write(json.dumps(line) + "\n")


def _mark(found: Findings, name: str) -> dict[str, Any]:
    kind, rows = KINDS[name], found.marked_rows(name)
    return {
        "dimension": kind.dimension,
        "meaning": kind.meaning,
        "rows": len(rows),
        "share": len(rows) / len(found.source.rows),
        "lines": [found.source.rows[row].origin.line for row in rows],
        "why": list(rows.values()),
    }


def _languages(found: Findings) -> dict[str, Any]:
    counts = Counter(found.languages)
    lines = {
        name: [i.line for i, own in zip(found.items, found.languages, strict=True) if own == name] for name in counts
    }
    return {name: {"rows": n, "lines": lines[name]} for name, n in counts.most_common()}
