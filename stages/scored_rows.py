"""What stages.score reads: conversations, whose last reply is scored, and rankings, whose responses all are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from instruct.readers import FORMATS as CONVERSATIONS
from models.errors import ConfigError, DataError, Origin
from models.reading import Reading, Row
from models.scorer import AXES
from models.split import DataSource, check_choice, prompt_key, read_split
from reward.ensemble import Replies
from reward.rankings import AxisScores
from reward.readers import FORMATS as RANKINGS


@dataclass(kw_only=True)
class ScoredData(DataSource):
    """A source of responses to score."""

    format: str  # of conversations: alpaca, messages, ...; of rankings: pairs, hh, kwise, ... as the choices of data=
    axes: list[str] = field(default_factory=list)  # what a preference without a named axis speaks of; none: no check
    on_unusable: str = "drop"  # empty responses and differing prompts: error, or drop (counted)
    side: str = "all"  # which rows: all, or eval, those that training holds out by the same seed and eval_fraction

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("format", self.format, (*CONVERSATIONS, *RANKINGS))
        check_choice("side", self.side, ("all", "eval"))
        for axis in self.axes:
            check_choice("axes", axis, AXES)
        if self.side == "all" and self.eval_path is not None:
            raise ConfigError("data.eval_path is read by data.side=eval alone; name the file in data.path instead")


@dataclass(frozen=True)
class ScoredRow:
    """A prompt and its responses. `labels`: what is known of their order, where the row is a ranking."""

    id: Any
    origin: Origin
    replies: Replies
    labels: tuple[AxisScores, ...] | None


def read_scored(data: ScoredData) -> tuple[list[ScoredRow], tuple[Reading, ...]]:
    """The rows of the side that is asked for, in the file's order, and how all were read. DataError where there are
    none."""
    whole = replace(data, eval_fraction=0.0) if data.side == "all" else data
    split = read_split(whole, lambda row: scored(row, data), lambda row: prompt_key(row.replies.prompt))
    rows = split.train if data.side == "all" else split.eval
    if not rows:
        raise DataError(
            f"{data.path}: none of its {len(split.train)} records is held out, so there is nothing to score; raise "
            "data.eval_fraction, name a data.eval_path, or say data.side=all"
        )
    return rows, split.readings


def scored(row: Row, data: ScoredData) -> list[ScoredRow]:
    """What one row holds, several conversations where it has several."""
    if data.format in CONVERSATIONS:
        found = [instruction.messages for instruction in CONVERSATIONS[data.format](row)]
        return [ScoredRow(row.id, row.origin, Replies(m[:-1], [m[-1].content]), None) for m in found]
    judged = RANKINGS[data.format](row)
    texts = [answer.text for answer in judged.answers]
    labels = tuple(known(answer.judged, data.axes) for answer in judged.answers)
    return [ScoredRow(row.id, row.origin, Replies(judged.prompt, texts), labels)]


def known(judged: float | dict[str, float | None] | None, axes: Sequence[str]) -> AxisScores:
    """A judgement on each axis; one that names none speaks of `axes`, and where there is none, nothing is known."""
    named = judged if isinstance(judged, dict) else dict.fromkeys(axes, judged)
    helpful, honest, harmless = (named.get(axis) for axis in AXES)
    return helpful, honest, harmless
