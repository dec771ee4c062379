"""Readers of preference data: each turns a row of one published form into a prompt and its judged answers.

To add a form, write its function and name it in FORMATS. A form that says "this answer is better", and not on which
axis, gives its answers one number each; the source's config says which axes that trains (`axes`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple

from models.chat import Message
from models.conversations import (
    chat_message,
    prompt_of,
    read_prompt,
    read_transcript,
    sharegpt_message,
)
from models.errors import BadRow, ConfigError
from models.reading import Row, UnusableRow
from models.scorer import AXES
from models.split import DataSource, Split, check_choice, prompt_key, read_split
from reward.rankings import AxisScores, Ranking


class Answer(NamedTuple):
    """A response and its judgement: one number (larger is better) or a number for each axis that is known."""

    text: str
    judged: float | dict[str, float | None]
    source: str


class Judged(NamedTuple):
    prompt: tuple[Message, ...]
    answers: list[Answer]


# --- pairs ------------------------------------------------------------------------------------------------------------


def _pair(prompt: tuple[Message, ...], chosen: str, rejected: str) -> Judged:
    return Judged(prompt, [Answer(chosen, 1.0, "chosen"), Answer(rejected, 0.0, "rejected")])


def pairs(row: Row) -> Judged:
    """{"prompt", "chosen", "rejected"}, each a text or a list of messages.

    Answers may be whole conversations; without a `prompt` they must be, and the turns before the last are the prompt.
    """
    (chosen_context, chosen), (rejected_context, rejected) = _reply(row, "chosen"), _reply(row, "rejected")
    prompt = list(read_prompt(row, "prompt")) if row.has("prompt") or not chosen_context else chosen_context
    if any(context and context != prompt for context in (chosen_context, rejected_context)):
        raise UnusableRow(row.origin, "prompts of chosen and rejected differ")
    return _pair(prompt_of(prompt, row, "chosen"), chosen, rejected)


def _reply(row: Row, name: str) -> tuple[list[Message], str]:
    if not isinstance(row.value(name), list):
        return [], row.filled(name)
    turns = [chat_message(turn) for turn in row.rows(name)]
    if not turns or turns[-1].role != "assistant":
        raise row.bad(name, "a text, or messages that end with the assistant's")
    return turns[:-1], turns[-1].content


def hh(row: Row) -> Judged:
    """{"chosen", "rejected"}: two transcripts of one conversation that part at the last reply (hh-rlhf)."""
    prompt, chosen = read_transcript(row, "chosen")
    other_prompt, rejected = read_transcript(row, "rejected")
    if not (chosen.strip() and rejected.strip()):
        raise UnusableRow(row.origin, "empty reply")
    if prompt != other_prompt:
        raise UnusableRow(row.origin, "prompts of chosen and rejected differ")
    return _pair(prompt, chosen, rejected)


def sharegpt_pairs(row: Row) -> Judged:
    """{"conversations": [{"from", "value"}, ...], "chosen": {"from", "value"}, "rejected": {...}}."""
    turns = [sharegpt_message(turn) for turn in row.rows("conversations")]
    chosen, rejected = sharegpt_message(row.row("chosen")), sharegpt_message(row.row("rejected"))
    return _pair(prompt_of(turns, row, "conversations"), chosen.content, rejected.content)


def stack_exchange(row: Row) -> Judged:
    """{"question", "response_j", "response_k"}: j has more votes than k."""
    return _pair(read_prompt(row, "question"), row.filled("response_j"), row.filled("response_k"))


def llmbar(row: Row) -> Judged:
    """{"input", "output_1", "output_2", "label"}: the label is the number of the better output."""
    better = row.value("label")
    if type(better) is not int or better not in (1, 2):
        raise row.bad("label", "1 or 2")
    outputs = row.filled("output_1"), row.filled("output_2")
    return _pair(read_prompt(row, "input"), outputs[better - 1], outputs[2 - better])


# --- K responses ------------------------------------------------------------------------------------------------------


def kwise(row: Row, first_rank: int = 1) -> Judged:
    """{"prompt" or "messages", "responses": [{"text", and how it was judged}, ...]}.

    Judged by `rank` (an integer, `first_rank` the best, ties allowed), or by `scores` ({axis: number or null}), or by
    fields named as the axes. `source` or `model` may say who made a response.
    """
    responses = _responses(row)
    judge = _ranked(row, responses, first_rank) if any(r.has("rank") for r in responses) else map(_axes, responses)
    answers = [Answer(r.filled("text"), judged, _source(r)) for r, judged in zip(responses, judge, strict=True)]
    return Judged(_prompt(row), answers)


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
    answers = [Answer(r.filled("text"), {axis: _number(r, "implied_score")}, _source(r)) for r in _responses(row)]
    return Judged(_prompt(row), answers)


def gsm8k(row: Row) -> Judged:
    """{"prompt", "responses": [{"text", "is_correct": true or false}, ...]}: right answers tie, so do wrong ones."""
    return Judged(
        _prompt(row), [Answer(r.filled("text"), _truth(r, "is_correct"), _source(r)) for r in _responses(row)]
    )


def _prompt(row: Row) -> tuple[Message, ...]:
    return read_prompt(row, "messages" if row.has("messages") else "prompt")


def _responses(row: Row) -> list[Row]:
    responses = row.rows("responses")
    if len(responses) < 2:
        raise row.bad("responses", "2 responses or more")
    return responses


def _source(response: Row) -> str:
    name = next((name for name in ("source", "model") if response.has(name)), None)
    return response.text(name) if name else ""


def _ranked(row: Row, responses: Sequence[Row], first_rank: int) -> list[float]:
    ranks = [response.value("rank") for response in responses]
    for response, rank in zip(responses, ranks, strict=True):
        if response.has("scores") or any(response.has(axis) for axis in AXES):
            raise response.bad("rank", "either a rank or scores, not both")
        if type(rank) is not int or rank < first_rank:
            raise response.bad("rank", f"an integer from {first_rank} (the best) up")
    # Ties may be counted densely (1, 1, 2) or as in competitions (1, 1, 3); a gap beyond that means a lost response.
    in_order = sorted(ranks)
    for place, rank in enumerate(in_order):
        before = in_order[place - 1] if place else first_rank - 1
        if rank not in (before, before + 1, first_rank + place):
            raise BadRow(row.origin, "responses[].rank", f"ranks of {len(ranks)} responses without gaps", in_order)
    return [float(-rank) for rank in ranks]


def _axes(response: Row) -> dict[str, float | None]:
    if not response.has("scores"):
        named = [axis for axis in AXES if response.has(axis)]
        if not named:
            raise response.bad("scores", f"a rank, scores, or fields named {', '.join(AXES)}")
        return {axis: _number_or_none(response, axis) for axis in named}
    scores = response.row("scores")
    unknown = next((name for name in response.value("scores") if name not in AXES), None)
    if unknown is not None:
        raise scores.bad(unknown, f"one of the axes {', '.join(AXES)}")
    return {axis: _number_or_none(scores, axis) for axis in AXES if scores.has(axis)}


def _number_or_none(row: Row, name: str) -> float | None:
    return None if row.value(name) is None else _number(row, name)


def _number(row: Row, name: str) -> float:
    value: Any = row.value(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise row.bad(name, "a finite number")
    return float(value)


def _truth(row: Row, name: str) -> float:
    value = row.value(name)
    if not isinstance(value, bool):
        raise row.bad(name, "true or false")
    return float(value)


FORMATS: dict[str, Callable[[Row], Judged]] = {
    "pairs": pairs,
    "hh": hh,
    "sharegpt_pairs": sharegpt_pairs,
    "stack_exchange": stack_exchange,
    "llmbar": llmbar,
    "kwise": kwise,
    "oasst": partial(kwise, first_rank=0),
    "xstest": xstest,
    "gsm8k": gsm8k,
}
NAMES_ITS_AXES = ("kwise", "xstest", "world")  # formats whose rows can say which axis a judgement is about


# --- rankings ---------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class RankingData(DataSource):
    """A source of rankings."""

    format: str  # a name in FORMATS, or world: rankings of sampled responses, made by stages.reward
    axes: list[str] = field(default_factory=list)  # what a preference without a named axis speaks of; none is assumed
    on_unusable: str = "drop"  # equal, empty or all-tied responses and differing prompts: error, or drop (counted)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("format", self.format, (*FORMATS, "world"))
        for axis in self.axes:
            check_choice("axes", axis, AXES)
        if not self.axes and self.format not in NAMES_ITS_AXES:
            raise _unstated_axes()


def read_rankings(data: RankingData) -> Split[Ranking]:
    """The rankings of a source, split by prompt.

    Raises DataError or BadRow by the source's policies, and ConfigError where a preference names no axis and
    `data.axes` states none.
    """
    reader = FORMATS[data.format]

    def rankings(row: Row) -> list[Ranking]:
        return [_ranking(row, reader(row), data.axes)]

    return read_split(data, rankings, lambda ranking: prompt_key(ranking.prompt))


def _ranking(row: Row, judged: Judged, axes: Sequence[str]) -> Ranking:
    alike: dict[str, list[AxisScores]] = {}
    sources: dict[str, str] = {}
    for answer in judged.answers:
        alike.setdefault(answer.text, []).append(_scores(answer.judged, axes))
        sources.setdefault(answer.text, answer.source)
    if len(alike) < len(judged.answers):
        row.notes.append("equal responses merged")
    if any(len(set(scores)) > 1 for scores in alike.values()):
        row.notes.append("equal responses with other scores averaged")
    scores = [_mean(same) for same in alike.values()]
    _check_order(row, scores)
    return Ranking(judged.prompt, tuple(alike), tuple(scores), tuple(sources.values()), row.origin)


def _scores(judged: float | dict[str, float | None], axes: Sequence[str]) -> AxisScores:
    if not isinstance(judged, dict):
        if not axes:
            raise _unstated_axes()
        judged = dict.fromkeys(axes, judged)
    helpful, honest, harmless = (judged.get(axis) for axis in AXES)
    return helpful, honest, harmless


def _unstated_axes() -> ConfigError:
    return ConfigError(f"data.axes is empty: state which of {', '.join(AXES)} these preferences speak of")


def _mean(scores: Sequence[AxisScores]) -> AxisScores:
    """Scores of one response that was judged several times. A score on an axis counts where it is known."""
    known = [[score for score in axis if score is not None] for axis in zip(*scores, strict=True)]
    # fmean of equal numbers can miss them by a rounding; agreement must be kept exactly.
    helpful, honest, harmless = (
        None if not axis else axis[0] if len(set(axis)) == 1 else fmean(axis) for axis in known
    )
    return helpful, honest, harmless


def _check_order(row: Row, scores: Sequence[AxisScores]) -> None:
    known = [{score for score in axis if score is not None} for axis in zip(*scores, strict=True)]
    if not any(known):
        raise BadRow(row.origin, "responses[].scores", "a score on one axis at least", [None] * len(AXES))
    if len(scores) == 1:
        raise UnusableRow(row.origin, "all responses are equal")
    if max(map(len, known)) < 2:
        raise UnusableRow(row.origin, "all responses tie")
