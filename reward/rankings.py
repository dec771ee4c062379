"""Rankings: one prompt, several responses, and what is known of their order on each axis."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from models.chat import Message
from models.errors import Origin
from models.scorer import AXES

AxisScores = tuple[float | None, float | None, float | None]  # in the order of AXES; larger is better, None unlabelled


@dataclass(frozen=True)
class Ranking:
    """K ≥ 2 distinct responses to a prompt that ends with a user turn.

    Scores compare within a ranking and an axis, not across. `sources` says who made each response ("" unknown). Where
    several judged, `votes` holds what each said, and `scores` are their means. Responses that no vote has both of are
    in no order, whatever their scores.
    """

    prompt: tuple[Message, ...]
    responses: tuple[str, ...]  # K
    scores: tuple[AxisScores, ...]  # K
    sources: tuple[str, ...]  # K
    origin: Origin
    votes: tuple[tuple[AxisScores, ...], ...] = ()  # J × K, empty where there is one judge

    @property
    def judgements(self) -> tuple[tuple[AxisScores, ...], ...]:
        """(J ≥ 1) × K: every judge's scores."""
        return self.votes or (self.scores,)


def merged(ranking: Ranking, keys: Sequence[Hashable] | None = None) -> Ranking:
    """The ranking with equal responses as one, whose scores are means: by each judge, and of all of them.

    keys: what makes responses equal, their texts by default. The first of equal ones stays.
    """
    places: dict[Hashable, list[int]] = {}
    for k, key in enumerate(keys or ranking.responses):
        places.setdefault(key, []).append(k)
    votes = tuple(tuple(mean([plane[k] for k in same]) for same in places.values()) for plane in ranking.judgements)
    scores = tuple(mean(of_judges) for of_judges in zip(*votes, strict=True))
    texts, sources = (
        tuple(column[same[0]] for same in places.values()) for column in (ranking.responses, ranking.sources)
    )
    return Ranking(ranking.prompt, texts, scores, sources, ranking.origin, votes if len(votes) > 1 else ())


def mean(scores: Sequence[AxisScores]) -> AxisScores:
    """Scores of one response that was judged several times. A score on an axis counts where it is known."""
    known = [[score for score in axis if score is not None] for axis in zip(*scores, strict=True)]
    # fmean of equal numbers can miss them by a rounding; agreement must be kept exactly.
    helpful, honest, harmless = (
        None if not axis else axis[0] if len(set(axis)) == 1 else fmean(axis) for axis in known
    )
    return helpful, honest, harmless


def why_unusable(ranking: Ranking) -> str | None:
    """Why nothing is learnt from the ranking of distinct responses, None where something is."""
    if len(ranking.responses) == 1:
        return "all responses are equal"
    if not orders_any(ranking.scores):
        return "all responses tie"
    return None if any(map(orders_any, ranking.judgements)) else "no judge has seen two responses"


def orders_any(judgement: Sequence[AxisScores]) -> bool:
    """Whether one judge's scores put any two responses in an order, on any axis."""
    return any(orders(axis) for axis in zip(*judgement, strict=True))


def orders(axis: Iterable[float | None]) -> bool:
    """Whether scores on one axis put any two responses in an order."""
    return len(set(axis) - {None}) > 1


def write_rankings(path: str | Path, rankings: Iterable[Ranking]) -> None:
    """Write JSON Lines of the `kwise` form, which read back as they were, but for their origin."""
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        for ranking in rankings:
            file.write(json.dumps(_row(ranking), ensure_ascii=False) + "\n")


def _row(ranking: Ranking) -> dict[str, object]:
    written: list[dict[str, object]] = []
    for k, (text, source) in enumerate(zip(ranking.responses, ranking.sources, strict=True)):
        of_judges = [dict(zip(AXES, judgement[k], strict=True)) for judgement in ranking.judgements]
        together = {axis: [scores[axis] for scores in of_judges] for axis in AXES}
        written.append({"text": text, "scores": together if ranking.votes else of_judges[0], "source": source})
    prompt = [{"role": message.role, "content": message.content} for message in ranking.prompt]
    return {"messages": prompt, "responses": written}
