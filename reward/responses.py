"""What a source of reward is asked about, and what it may answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from models.chat import Prompt
from models.errors import DataError


class Response(NamedTuple):
    """A response to a prompt, as text and in its policy's ids. `fields`: what else the prompt's data row says."""

    prompt: Prompt
    text: str
    ids: Sequence[int]
    fields: Mapping[str, Any]


def scores_in(found: object, n: int, who: str) -> list[float]:
    """The scores that `who` gave of `n` responses; None, that it does not apply, counts 0. DataError where they are no
    list of so many numbers."""
    listed = found.tolist() if hasattr(found, "tolist") else found
    if not isinstance(listed, list | tuple):
        raise DataError(f"{who}: expected a list of {n} numbers, got {type(found).__name__}")
    if len(listed) != n:
        raise DataError(f"{who}: expected {n} numbers, one for each response, got {len(listed)}")
    return [_number(score, i, who) for i, score in enumerate(listed)]


def _number(score: Any, index: int, who: str) -> float:
    if score is None:
        return 0.0
    try:
        if not isinstance(score, str):
            return float(score)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        pass  # told below
    raise DataError(f"{who}: expected numbers or None, got {type(score).__name__} for response {index + 1}")
