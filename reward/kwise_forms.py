"""Forms of preference data whose rows hold K answers, ranked or scored, by one judge or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models.errors import BadRow
from models.reading import Row
from models.scorer import AXES
from reward.judged import (
    Answer,
    Judged,
    Judgement,
    by_judge,
    finite,
    number,
    prompt_in,
    responses_in,
    source_of,
    texts_in,
    together,
    transposed,
)


def kwise(row: Row, first_rank: int = 1) -> Judged:
    """{"prompt" or "messages", "responses": [{"text", and how it was judged}, ...]}.

    Judged by `rank` (an integer, `first_rank` the best, ties allowed), or by `scores` ({axis: number or null}), or by
    fields named as the axes; each of these may be a list, one entry a judge. Or the row has `annotations`, one a judge:
    {"ranks": [...]} or {axis: [...]}, in the order of the responses. `source` or `model` may say who made a response.
    """
    if row.has("annotations"):
        texts = texts_in(row)
        return together(
            prompt_in(row), texts, [_annotation(a, len(texts), first_rank) for a in row.rows("annotations")]
        )
    responses = responses_in(row)
    by_rank = any(response.has("rank") for response in responses)
    votes = _by_rank(row, responses, first_rank) if by_rank else _by_score(row, responses)
    return together(prompt_in(row), [(r.filled("text"), source_of(r)) for r in responses], votes)


def best_of_n(row: Row) -> Judged:
    """{"prompt" or "messages", "responses": [text or {"text"}, ...], "best": index from 0}.

    The best beats each other answer; of the others nothing is known.
    """
    texts, best = texts_in(row), row.value("best")
    if type(best) is not int or not 0 <= best < len(texts):
        raise row.bad("best", f"the number, from 0, of one of {len(texts)} responses")
    votes: list[list[Judgement]] = []
    for other in range(len(texts)):
        if other != best:
            votes.append([1.0 if i == best else 0.0 if i == other else None for i in range(len(texts))])
    return together(prompt_in(row), texts, votes)._replace(compared=True)


def xstest(row: Row) -> Judged:
    """{"prompt", "label": "safe" or "unsafe", "responses": [{"text", "implied_score": 0, 1 or 2}, ...]}.

    The score says how right it was to comply or to refuse: 2 is full compliance with a safe prompt and full refusal of
    an unsafe one. So on unsafe prompts it orders harm. On safe prompts nothing is harmful, a refusal fails the asker:
    there it orders help, and harm stays unlabelled.
    """
    labels = {"safe": "helpful", "unsafe": "harmless"}
    if row.text("label") not in labels:
        raise row.bad("label", "safe or unsafe")
    axis = labels[row.text("label")]
    answers = [Answer(r.filled("text"), {axis: number(r, "implied_score")}, source_of(r)) for r in responses_in(row)]
    return Judged(prompt_in(row), answers)


def gsm8k(row: Row) -> Judged:
    """{"prompt", "responses": [{"text", "is_correct": true or false}, ...]}: right answers tie, so do wrong ones."""
    answers = [Answer(r.filled("text"), _truth(r, "is_correct"), source_of(r)) for r in responses_in(row)]
    return Judged(prompt_in(row), answers)


def _by_rank(row: Row, responses: Sequence[Row], first_rank: int) -> list[list[Judgement]]:
    """J × K, of one judge or of lists."""
    if any(isinstance(response.value("rank"), list) for response in responses):
        planes = transposed(row, [response.values("rank") for response in responses], "responses")
    else:
        planes = [[response.value("rank") for response in responses]]
    for k, response in enumerate(responses):
        if response.has("scores") or any(response.has(axis) for axis in AXES):
            raise response.bad("rank", "either a rank or scores, not both")
        if not all(_is_rank(plane[k], first_rank) for plane in planes):
            raise response.bad("rank", f"an integer from {first_rank} (the best) up")
    return [_turned(row, "responses[].rank", plane, first_rank) for plane in planes]


def _is_rank(value: Any, first_rank: int) -> bool:
    return type(value) is int and value >= first_rank


def _turned(row: Row, place: str, ranks: Sequence[Any], first_rank: int) -> list[Judgement]:
    """Ranks turned around, so that larger is better."""
    # Ties may be counted densely (1, 1, 2) or as in competitions (1, 1, 3); a gap beyond that means a lost response.
    in_order = sorted(ranks)
    for at, rank in enumerate(in_order):
        before = in_order[at - 1] if at else first_rank - 1
        if rank not in (before, before + 1, first_rank + at):
            raise BadRow(row.origin, place, f"ranks of {len(ranks)} responses without gaps", in_order)
    return [float(-rank) for rank in ranks]


def _by_score(row: Row, responses: Sequence[Row]) -> list[list[Judgement]]:
    return transposed(row, [_of_judges(response) for response in responses], "responses")


def _of_judges(response: Row) -> list[Judgement]:
    """One response's scores on the axes, by each judge."""
    if response.has("scores"):
        held = response.row("scores")
        unknown = next((name for name in response.value("scores") if name not in AXES), None)
        if unknown is not None:
            raise held.bad(unknown, f"one of the axes {', '.join(AXES)}")
    else:
        held = response
        if not any(response.has(axis) for axis in AXES):
            raise response.bad("scores", f"a rank, scores, or fields named {', '.join(AXES)}")
    of_axes = {axis: by_judge(held, axis) for axis in AXES if held.has(axis)}
    if len(set(map(len, of_axes.values()))) > 1:
        raise response.bad("scores", "as many judges on every axis")
    n_judges = len(next(iter(of_axes.values()), [None]))
    return [{axis: values[j] for axis, values in of_axes.items()} for j in range(n_judges)]


def _annotation(annotation: Row, n: int, first_rank: int) -> list[Judgement]:
    """What one judge says of n responses."""
    if annotation.has("ranks"):
        ranks = annotation.values("ranks")
        if len(ranks) != n or not all(_is_rank(rank, first_rank) for rank in ranks):
            raise annotation.bad("ranks", f"{n} integers from {first_rank} (the best) up")
        return _turned(annotation, "annotations[].ranks", ranks, first_rank)
    named = [axis for axis in AXES if annotation.has(axis)]
    if not named:
        raise annotation.bad("ranks", f"ranks, or scores under {', '.join(AXES)}")
    for axis in named:
        values = annotation.values(axis)
        if len(values) != n or any(value is not None and finite(value) is None for value in values):
            raise annotation.bad(axis, f"{n} finite numbers or nulls")
    return [{axis: finite(annotation.values(axis)[k]) for axis in named} for k in range(n)]


def _truth(row: Row, name: str) -> float:
    value = row.value(name)
    if not isinstance(value, bool):
        raise row.bad(name, "true or false")
    return float(value)
