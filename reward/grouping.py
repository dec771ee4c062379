"""Rankings out of rows that hold one judged response each: those of one prompt belong together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from models.reading import Reading, UnusableRow
from reward.rankings import Ranking, merged, why_unusable


def grouped(rows: Sequence[Ranking], readings: Sequence[Reading]) -> list[Ranking]:
    """One ranking a prompt, in the order of their first rows, with the origin of that row.

    Rows whose prompt has no two responses in an order become dropped rows of their reading, by its policy.
    """
    by_prompt: dict[object, list[Ranking]] = {}
    for row in rows:
        by_prompt.setdefault(row.prompt, []).append(row)
    found = []
    for same in by_prompt.values():
        ranking = merged(_together(same))
        reason = "no other response to its prompt" if len(same) == 1 else why_unusable(ranking)
        found += [] if reason else [ranking]
        for row in same if reason else ():
            reading = next(reading for reading in readings if reading.path == row.origin.path)
            reading.reject(UnusableRow(row.origin, str(reason)))
            reading.n_kept, reading.n_records = reading.n_kept - 1, reading.n_records - 1
    return found


def _together(same: Sequence[Ranking]) -> Ranking:
    """Rankings of one response each as one of several."""
    first, unseen = same[0], ((None, None, None),)
    votes = zip_longest(*(row.judgements for row in same), fillvalue=unseen)
    return Ranking(
        first.prompt,
        tuple(row.responses[0] for row in same),
        tuple(row.scores[0] for row in same),
        tuple(row.sources[0] for row in same),
        first.origin,
        tuple(tuple(plane[0] for plane in judge) for judge in votes),
    )
