"""What a row of preference data says: a prompt and its judged answers, by one judge or several."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from models.chat import Message
from models.conversations import read_prompt
from models.reading import Row, UnusableRow

Judgement = float | dict[str, float | None] | None
"""One number (larger is better) for the axes that the source's config names, or a number for each axis that is known;
None where the judge did not see the answer."""


class Answer(NamedTuple):
    """A response and its judgement by the one judge."""

    text: str
    judged: Judgement
    source: str


class Judged(NamedTuple):
    """A row's answers. Where there are `votes`, J × K, they say what several judges made of the answers.

    `compared`: the votes are the separate comparisons of one judge, so none of them may stand for all.
    """

    prompt: tuple[Message, ...]
    answers: list[Answer]
    votes: Sequence[Sequence[Judgement]] = ()
    compared: bool = False


def pair(prompt: tuple[Message, ...], chosen: str, rejected: str, margin: float = 1.0) -> Judged:
    """An answer that is better than another, by so much."""
    return Judged(prompt, [Answer(chosen, margin, "chosen"), Answer(rejected, 0.0, "rejected")])


def together(prompt: tuple[Message, ...], texts: Sequence[tuple[str, str]], votes: list[list[Judgement]]) -> Judged:
    """Answers (text, source) with the votes of one judge or more, J × K."""
    if len(votes) == 1:
        return Judged(prompt, [Answer(text, v, source) for (text, source), v in zip(texts, votes[0], strict=True)])
    return Judged(prompt, [Answer(text, None, source) for text, source in texts], votes)


def prompt_in(row: Row) -> tuple[Message, ...]:
    """The conversation under `messages`, or the prompt under `prompt`."""
    return read_prompt(row, "messages" if row.has("messages") else "prompt")


def responses_in(row: Row) -> list[Row]:
    """The objects under `responses`, two or more."""
    responses = row.rows("responses")
    if len(responses) < 2:
        raise row.bad("responses", "2 responses or more")
    return responses


def texts_in(row: Row) -> list[tuple[str, str]]:
    """(text, source) of the `responses`, two or more, plain texts or objects with a `text`."""
    if not isinstance(next(iter(row.values("responses")), None), str):
        return [(response.filled("text"), source_of(response)) for response in responses_in(row)]
    texts = row.values("responses")
    if len(texts) < 2 or not all(isinstance(text, str) for text in texts):
        raise row.bad("responses", "2 responses or more, all texts or all objects")
    if not all(text.strip() for text in texts):
        raise UnusableRow(row.origin, "empty responses[]")
    return [(text, "") for text in texts]


def source_of(response: Row) -> str:
    """Who made the response, by its `source` or `model`; "" where neither says."""
    name = next((name for name in ("source", "model") if response.has(name)), None)
    return response.text(name) if name else ""


def number(row: Row, name: str) -> float:
    """The field's finite number."""
    if (value := finite(row.value(name))) is None:
        raise row.bad(name, "a finite number")
    return value


def number_or_none(row: Row, name: str) -> float | None:
    """The field's finite number, None where it is null."""
    return None if row.value(name) is None else number(row, name)


def finite(value: Any) -> float | None:
    """The value as a float if it is a finite number, None otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        return None
    return float(value)


def by_judge(row: Row, name: str) -> list[float | None]:
    """The field's number or null, or its list of them, one a judge."""
    if not isinstance(row.value(name), list):
        return [number_or_none(row, name)]
    values = [None if value is None else finite(value) for value in row.values(name)]
    if not values or any(
        got is None and value is not None for got, value in zip(values, row.values(name), strict=True)
    ):
        raise row.bad(name, "finite numbers or nulls, one a judge")
    return values


def transposed(row: Row, responses: Sequence[Sequence[Judgement]], name: str) -> list[list[Judgement]]:
    """K × J judgements as J × K. Raises BadRow where the responses have not the same number of judges."""
    if len({len(judges) for judges in responses}) > 1:
        raise row.bad(name, "as many judgements of every response")
    return [list(plane) for plane in zip(*responses, strict=True)]
