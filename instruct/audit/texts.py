"""Words and symbols of a text in any script.

Scripts that write no spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) have each character as a word,
so that an n-gram of words is an n-gram of characters there.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from typing import TypeVar

from models.split import text_key

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_MARKS = "\u0300-\u036f\u0591-\u05bd\u064b-\u0652\u0900-\u0dff"  # parts of words that Python does not count as letters
_WORD = rf"[{_UNSPACED}]|(?:[^\W{_UNSPACED}]|[{_MARKS}])+(?:['’][^\W{_UNSPACED}]+)*"
_WORDS = re.compile(_WORD)
_TOKENS = re.compile(rf"{_WORD}|[^\w\s]")
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")

Part = TypeVar("Part", bound=Hashable)


def words(text: str) -> list[str]:
    """The words, in lower case."""
    return _WORDS.findall(text_key(text))


def tokens(text: str) -> list[str]:
    """Words and, each by itself, symbols: `2+2` differs from `2-2`."""
    return _TOKENS.findall(text_key(text))


def is_unspaced(word: str) -> bool:
    """Whether the word is a character of a script without spaces."""
    return bool(_IS_UNSPACED.match(word))


def mostly_unspaced(parts: Sequence[str]) -> bool:
    """Whether at least half of the words are characters of scripts without spaces."""
    return 2 * sum(map(is_unspaced, parts)) >= max(len(parts), 1)


def ngrams(parts: Sequence[Part], n: int) -> Iterator[tuple[Part, ...]]:
    """Runs of n parts; none where there are fewer."""
    return zip(*(parts[i:] for i in range(n)), strict=False)


def joined(parts: Sequence[str]) -> str:
    """Words as a person writes them: without spaces between characters of scripts that have none."""
    return "".join(
        part if i == 0 or (is_unspaced(part) and is_unspaced(parts[i - 1])) else f" {part}"
        for i, part in enumerate(parts)
    )


def excerpt(text: str, length: int = 90) -> str:
    """The text's beginning on one line."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"
