"""Readers of preference data: each form turns a row into a prompt and its judged answers, this file into rankings.

To add a form, write its function beside those of its kind and name it in FORMATS. A form that says "this answer is
better", and not on which axis, gives its answers one number each; the source's config says which axes that trains
(`axes`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from models.errors import BadRow, ConfigError, DataError
from models.reading import Row, UnusableRow
from models.scorer import AXES
from models.split import DataSource, Split, check_choice, prompt_key, read_split
from reward.agreement import JudgesAgreement
from reward.grouping import grouped
from reward.judged import Judged, Judgement
from reward.kwise_forms import best_of_n, gsm8k, kwise, xstest
from reward.pair_forms import hh, llmbar, pairs, sharegpt_pairs, stack_exchange
from reward.rankings import AxisScores, Ranking, merged, orders_any, why_unusable
from reward.rated_forms import Scales, helpsteer, rated, ultrafeedback

FORMATS: dict[str, Callable[[Row], Judged]] = {
    "pairs": pairs,
    "hh": hh,
    "sharegpt_pairs": sharegpt_pairs,
    "stack_exchange": stack_exchange,
    "llmbar": llmbar,
    "kwise": kwise,
    "oasst": partial(kwise, first_rank=0),
    "best_of_n": best_of_n,
    "xstest": xstest,
    "gsm8k": gsm8k,
}
RATED_FORMATS: dict[str, Callable[[Row, Scales], Judged]] = {
    "rated": rated,
    "ultrafeedback": ultrafeedback,
    "helpsteer": helpsteer,
}
ONE_ANSWER_A_ROW = ("helpsteer",)
NAMES_ITS_AXES = ("kwise", "xstest", "world", *RATED_FORMATS)  # formats whose rows can say which axis a judgement is of


@dataclass(kw_only=True)
class RankingData(DataSource):
    """A source of rankings."""

    format: str  # a name in FORMATS or RATED_FORMATS, or world: rankings of samples, made by stages.reward
    axes: list[str] = field(default_factory=list)  # what a preference without a named axis speaks of; none is assumed
    ratings: dict[str, str] = field(default_factory=dict)  # of rated forms: name of a rating -> the axis it speaks of
    scale: list[float] = field(default_factory=lambda: [1.0, 5.0])  # of rated forms: the least and the largest rating
    annotators: str = "average"  # of several judges of a row: average (votes as soft labels), or sample one
    on_unusable: str = "drop"  # equal, empty or all-tied responses and differing prompts: error, or drop (counted)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("format", self.format, (*FORMATS, *RATED_FORMATS, "world"))
        check_choice("annotators", self.annotators, ("average", "sample"))
        for axis in self.axes:
            check_choice("axes", axis, AXES)
        for name, axis in self.ratings.items():
            check_choice(f"ratings.{name}", axis, AXES)
        if len(self.scale) != 2 or self.scale[0] >= self.scale[1]:
            raise ConfigError(f"data.scale={self.scale}: expected the least and the largest rating, as in [1,5]")
        if self.format in RATED_FORMATS and not self.ratings:
            raise ConfigError(
                "data.ratings is empty: say which axis a rating speaks of, as in data.ratings.truth=honest"
            )
        if not self.axes and self.format not in NAMES_ITS_AXES:
            raise _unstated_axes()


@dataclass(frozen=True)
class RankingSplit(Split[Ranking]):
    """Rankings of both sides, and how far the judges of those that have several agree."""

    agreement: JudgesAgreement

    def __str__(self) -> str:
        agreed = str(self.agreement)
        return "; ".join([super().__str__(), *([f"judges agree on {agreed}"] if agreed else [])])


def read_rankings(data: RankingData) -> RankingSplit:
    """The rankings of a source, split by prompt.

    Raises DataError or BadRow by the source's policies, and ConfigError where a preference names no axis and
    `data.axes` states none.
    """
    reader = FORMATS.get(data.format) or partial(
        RATED_FORMATS[data.format], scales=Scales(data.ratings, data.scale[0], data.scale[1])
    )
    agreement, alone = JudgesAgreement(), data.format in ONE_ANSWER_A_ROW

    def by_annotators(ranking: Ranking) -> Ranking:
        agreement.add(ranking.votes)
        return _of_one_judge(ranking, data.seed) if data.annotators == "sample" else ranking

    def rankings(row: Row) -> list[Ranking]:
        judged = reader(row)
        ranking = _ranking(row, judged, data.axes)
        if not alone:
            _check_order(ranking)
        return [ranking if alone or judged.compared else by_annotators(ranking)]

    split = read_split(data, rankings, lambda ranking: prompt_key(ranking.prompt))
    train, held = split.train, split.eval
    if alone:
        train, held = ([by_annotators(r) for r in grouped(side, split.readings)] for side in (train, held))
    if not train:
        raise DataError(f"{data.path}: no prompt that is not held out has two responses in an order; {split}")
    return RankingSplit(train, held, split.readings, agreement)


def _ranking(row: Row, judged: Judged, axes: Sequence[str]) -> Ranking:
    by_judge = judged.votes or [[answer.judged for answer in judged.answers]]
    votes = tuple(tuple(_scores(judgement, axes) for judgement in plane) for plane in by_judge)
    texts, sources = (tuple(column) for column in zip(*((a.text, a.source) for a in judged.answers), strict=True))
    if len(set(texts)) < len(texts):
        row.notes.append("equal responses merged")
        if any(plane[k] != plane[texts.index(text)] for plane in votes for k, text in enumerate(texts)):
            row.notes.append("equal responses with other scores averaged")
    return merged(Ranking(judged.prompt, texts, votes[0], sources, row.origin, votes))


def _check_order(ranking: Ranking) -> None:
    if all(score is None for scores in ranking.scores for score in scores):
        raise BadRow(ranking.origin, "responses[].scores", "a score on one axis at least", [None] * len(AXES))
    if reason := why_unusable(ranking):
        raise UnusableRow(ranking.origin, reason)


def _of_one_judge(ranking: Ranking, seed: int) -> Ranking:
    """The ranking as one of its judges has it, drawn from those who order something."""
    ordering = [plane for plane in ranking.judgements if orders_any(plane)]
    drawn = random.Random(f"{seed}:{ranking.origin.line}").choice(ordering)
    return replace(ranking, scores=drawn, votes=())


def _scores(judged: Judgement, axes: Sequence[str]) -> AxisScores:
    if judged is not None and not isinstance(judged, dict):
        if not axes:
            raise _unstated_axes()
        judged = dict.fromkeys(axes, judged)
    helpful, honest, harmless = ((judged or {}).get(axis) for axis in AXES)
    return helpful, honest, harmless


def _unstated_axes() -> ConfigError:
    return ConfigError(f"data.axes is empty: state which of {', '.join(AXES)} these preferences speak of")
