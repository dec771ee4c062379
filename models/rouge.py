"""ROUGE-L: how much of two texts stands in both in the same order (Lin 2004)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

# Scripts written without spaces count a word a character.
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af]+"
)


def words(text: str) -> list[str]:
    """The words of a text, without case, punctuation and width of letters."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def rouge_l(one: Sequence[str], other: Sequence[str]) -> float:
    """The F-measure of two lists of words, in [0, 1]; 0 where one is empty."""
    return _f_measure(_common(_places(one), len(one), other), len(one), len(other))


def closest(text: Sequence[str], others: Iterable[Sequence[str]], above: float) -> float:
    """The largest ROUGE-L of `text` to one of the others, where it is above `above`; 0 elsewhere."""
    places, best = _places(text), 0.0
    for other in others:
        at_most = _f_measure(min(len(text), len(other)), len(text), len(other))
        if at_most > max(best, above):
            best = max(best, _f_measure(_common(places, len(text), other), len(text), len(other)))
    return best if best > above else 0.0


def _f_measure(n_common: int, n_one: int, n_other: int) -> float:
    return 2 * n_common / (n_one + n_other) if n_common else 0.0


def _places(text: Sequence[str]) -> dict[str, int]:
    """For each word the places where it stands, as bits."""
    places: dict[str, int] = {}
    for i, word in enumerate(text):
        places[word] = places.get(word, 0) | 1 << i
    return places


def _common(places: dict[str, int], n: int, other: Sequence[str]) -> int:
    """The length of the longest common subsequence, a whole row of the table at once (Hyyrö 2004)."""
    everywhere = (1 << n) - 1
    row = everywhere
    for word in other:
        matched = row & places.get(word, 0)
        row = (row + matched | row - matched) & everywhere
    return n - row.bit_count()
