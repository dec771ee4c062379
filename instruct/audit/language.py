"""The language of instructions and answers, and answers in another language than they were asked in."""

from __future__ import annotations

import re
from collections.abc import Sequence

from instruct.audit.kinds import Marks
from instruct.audit.source import Item
from instruct.audit.texts import words
from instruct.language import UNKNOWN, language

ENOUGH = 5  # words of each side before a change of language is spoken of
_CODE = re.compile(r"^\s*```.*?^\s*```", re.MULTILINE | re.DOTALL)


def language_of(text: str) -> str:
    """The likeliest language of a text, its code blocks aside."""
    return language(words(_CODE.sub(" ", text)))


def language_switches(items: Sequence[Item]) -> Marks:
    """Items whose answer is in another language than their prompt, as far as either can be told."""
    marks: Marks = {}
    for i, item in enumerate(items):
        if min(len(item.asked_words), len(item.answer_words)) >= ENOUGH:
            asked, answered = language(item.asked_words), language_of(item.answer)
            if UNKNOWN not in (asked, answered) and asked != answered:
                marks[i] = f"asked in {asked}, answered in {answered}"
    return marks


def languages(items: Sequence[Item]) -> list[str]:
    """The language of each item's prompt and answer together."""
    return [language_of("\n".join(turn.content for turn in item.messages)) for item in items]
