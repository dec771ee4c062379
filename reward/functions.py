"""Rewards that need no model, to be named as `reward.also.<name>.function=reward.functions.exact_match`.

Each is called as `reward.function_source` says, and so by TRL's trainers, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from models.rouge import words

Completions = Sequence[Sequence[Mapping[str, str]]]

# What a worked solution writes before its result: gsm8k's `####`, `A: 540`, `The answer is 540.`
_RESULT = re.compile(r"####|\bA:|\banswer(?:\s+is\b|:)", re.IGNORECASE)
_NUMBER = re.compile(r"(?<!\d)-?\d[\d,]*(?:\.\d+)?")


def exact_match(
    completions: Completions,
    answer: Sequence[Any] | None = None,
    reference: Sequence[Any] | None = None,
    solution: Sequence[Any] | None = None,
    **_: Any,
) -> list[float | None]:
    """1 where a response ends in the right answer of its row, 0 where not, None where the row names none.

    The right answer is the row's `answer`, `reference` or `solution`; of a worked one what follows `####`, `A:` or
    `answer is`. Where it is a number, the response's is what follows such a mark, or its last number; elsewhere texts
    are compared by their words.
    """
    rows = answer or reference or solution or [None] * len(completions)
    return [
        None if right is None else float(_same(completion[-1]["content"], str(right)))
        for completion, right in zip(completions, rows, strict=True)
    ]


def length(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """Tokens of a response; a weight below 0 asks for brevity."""
    return [float(len(ids)) for ids in completion_ids]


def repetition(completions: Completions, n: int = 3, **_: Any) -> list[float]:
    """Share of a response's word n-grams that stood in it before, in [0, 1); a weight below 0 punishes it."""
    return [_repeated(words(completion[-1]["content"]), n) for completion in completions]


def _same(text: str, right: str) -> bool:
    wanted = _result(right).strip(" \n\t$%.")
    if not _NUMBER.fullmatch(wanted):
        return words(_result(text)) == words(wanted)
    marked = _RESULT.search(text) is not None
    found = _NUMBER.findall(_result(text))
    return bool(found) and _value(found[0 if marked else -1]) == _value(wanted)


def _result(text: str) -> str:
    """What follows the last mark of a result; the whole text where there is none."""
    return _RESULT.split(text)[-1]


def _value(number: str) -> Decimal:
    return Decimal(number.replace(",", ""))


def _repeated(said: Sequence[str], n: int) -> float:
    grams = [tuple(said[i : i + n]) for i in range(len(said) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
