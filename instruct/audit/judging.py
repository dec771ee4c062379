"""Answers before a judge that may be slow, fail, or have no opinion. Nothing that it does ends the audit."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from instruct.audit.source import Item

Judge = Callable[[str, str], "float | None"]  # (prompt, answer) -> how good it is, in [0, 1], or no opinion
PATIENCE = 5  # failures in a row, after which the judge is asked no more


@dataclass
class Judgements:
    """Scores of the items, None where there is none; how many answers failed, and how."""

    scores: list[float | None]
    failures: Counter[str] = field(default_factory=Counter)


def judgements(items: Sequence[Item], judge: Judge, seconds: float) -> Judgements:
    """Ask about every item. A call that takes longer than `seconds` is left to itself."""
    found = Judgements([])
    in_a_row = 0
    for item in items:
        if in_a_row >= PATIENCE:
            found.scores.append(None)
            found.failures["not asked any more"] += 1
            continue
        prompt = "\n\n".join(turn.content for turn in item.prompt)
        score, failure = _asked(judge, prompt, item.answer, seconds)
        found.scores.append(score)
        in_a_row = in_a_row + 1 if failure else 0
        if failure:
            found.failures[failure] += 1
    return found


def _asked(judge: Judge, prompt: str, answer: str, seconds: float) -> tuple[float | None, str | None]:
    """(score, failure): at most one of them."""
    answers: list[object] = []
    errors: list[str] = []

    def ask() -> None:
        try:
            answers.append(judge(prompt, answer))
        except Exception as error:
            errors.append(type(error).__name__)

    thread = threading.Thread(target=ask, daemon=True)  # one that hangs does not keep the process alive
    thread.start()
    thread.join(seconds)
    if errors:
        return None, errors[0]
    if not answers:
        return None, "time-out"
    score = answers[0]
    if score is None:
        return None, None
    if not isinstance(score, int | float) or isinstance(score, bool) or not 0 <= score <= 1:
        return None, "no number in [0, 1]"
    return float(score), None
