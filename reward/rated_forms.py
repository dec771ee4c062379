"""Forms of preference data whose answers are rated on scales of several names, such as helpfulness or truthfulness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from models.conversations import read_prompt
from models.reading import Row
from reward.judged import (
    Answer,
    Judged,
    Judgement,
    by_judge,
    finite,
    prompt_in,
    responses_in,
    source_of,
    together,
    transposed,
)


@dataclass(frozen=True)
class Scales:
    """Which axis each rating speaks of, and the least and the largest rating; on the axes they are 0 and 1."""

    axis_of: Mapping[str, str]
    low: float
    high: float

    def judgements(self, rated: Row) -> list[Judgement]:
        """The ratings in the fields of `rated` by each judge; of several for one axis the mean counts."""
        known = {name: self._scaled(rated, name) for name in self.axis_of if rated.has(name)}
        if not known:
            raise rated.bad(next(iter(self.axis_of)), f"a rating named {' or '.join(self.axis_of)}")
        if len(set(map(len, known.values()))) > 1:
            raise rated.bad(next(iter(known)), "as many judges on every rating")
        return [self._on_axes({name: values[j] for name, values in known.items()}) for j in range(_length(known))]

    def _scaled(self, rated: Row, name: str) -> list[float | None]:
        values = by_judge(rated, name)
        if any(value is not None and not self.low <= value <= self.high for value in values):
            raise rated.bad(name, f"a rating from {self.low:g} to {self.high:g}")
        return [None if value is None else (value - self.low) / (self.high - self.low) for value in values]

    def _on_axes(self, ratings: Mapping[str, float | None]) -> dict[str, float | None]:
        axes: dict[str, list[float]] = {}
        for name, value in ratings.items():
            axes.setdefault(self.axis_of[name], []).extend([] if value is None else [value])
        return {axis: fmean(values) if values else None for axis, values in axes.items()}


def _length(known: Mapping[str, list[float | None]]) -> int:
    return len(next(iter(known.values())))


def rated(row: Row, scales: Scales) -> Judged:
    """{"prompt" or "messages", "responses": [{"text", "ratings": {name: number or null}}, ...]}.

    Ratings may stand in the response itself, and be lists, one entry a judge.
    """
    responses = responses_in(row)
    votes = [scales.judgements(r.row("ratings") if r.has("ratings") else r) for r in responses]
    texts = [(r.filled("text"), source_of(r)) for r in responses]
    return together(prompt_in(row), texts, transposed(row, votes, "responses"))


def ultrafeedback(row: Row, scales: Scales) -> Judged:
    """{"instruction", "completions": [{"model", "response", "annotations": {name: {"Rating": "4"}}}, ...]}."""
    completions = row.rows("completions")
    if len(completions) < 2:
        raise row.bad("completions", "2 completions or more")
    answers = []
    for completion in completions:
        annotations = completion.row("annotations")
        ratings = {name: _rating(annotations.row(name)) for name in scales.axis_of if annotations.has(name)}
        [judged] = scales.judgements(Row(row.origin, ratings, "completions[].annotations."))
        answers.append(Answer(completion.filled("response"), judged, source_of(completion)))
    return Judged(read_prompt(row, "instruction"), answers)


def _rating(annotation: Row) -> float | None:
    """UltraFeedback writes numbers as text, and N/A where there is none."""
    text = annotation.value("Rating")
    if text is None or text == "N/A":
        return None
    try:
        value = finite(float(text))
    except (TypeError, ValueError):
        value = None
    if value is None:
        raise annotation.bad("Rating", "a number as text, or N/A")
    return value


def helpsteer(row: Row, scales: Scales) -> Judged:
    """{"prompt", "response", and ratings as fields}: one answer a row; rows of one prompt make a ranking."""
    return together(prompt_in(row), [(row.filled("response"), source_of(row))], [[j] for j in scales.judgements(row)])
