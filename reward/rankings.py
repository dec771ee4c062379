"""Rankings: one prompt, several responses, and what is known of their order on each axis."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from models.chat import Message
from models.errors import Origin
from models.scorer import AXES

AxisScores = tuple[float | None, float | None, float | None]  # in the order of AXES; larger is better, None unlabelled


@dataclass(frozen=True)
class Ranking:
    """K ≥ 2 distinct responses to a prompt that ends with a user turn.

    Scores compare within a ranking and an axis, not across. `sources` says who made each response ("" unknown).
    """

    prompt: tuple[Message, ...]
    responses: tuple[str, ...]  # K
    scores: tuple[AxisScores, ...]  # K
    sources: tuple[str, ...]  # K
    origin: Origin


def write_rankings(path: str | Path, rankings: Iterable[Ranking]) -> None:
    """Write JSON Lines of the `kwise` form, which read back as they were, but for their origin."""
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        for ranking in rankings:
            file.write(json.dumps(_row(ranking), ensure_ascii=False) + "\n")


def _row(ranking: Ranking) -> dict[str, object]:
    judged = zip(ranking.responses, ranking.scores, ranking.sources, strict=True)
    return {
        "messages": [{"role": message.role, "content": message.content} for message in ranking.prompt],
        "responses": [
            {"text": text, "scores": dict(zip(AXES, scores, strict=True)), "source": source}
            for text, scores, source in judged
        ],
    }
