"""Answers that break off, and blanks that nobody filled in. Rules of thumb: each mark says what was seen."""

from __future__ import annotations

import re
from collections.abc import Sequence

from instruct.audit.kinds import Marks
from instruct.audit.source import Item
from instruct.audit.texts import excerpt, mostly_unspaced, words

_FENCE = re.compile(r"^\s*(?:```|~~~)", re.MULTILINE)
_LIST_MARK = re.compile(r"\s*(?:[-*+•]|\(?\d{1,3}[.)、]|\(?[a-zA-Z][.)])")
_STOPS_AT_WORD = re.compile(r"(?:^|\s)[^\W\d#@]\w*$|[\u3040-\u30ff\u4e00-\u9fff][\u3040-\u30ff\u4e00-\u9fff\d]*$")
_SIGNED = re.compile(r"[\"”’'»」]\s*[-–—~].{1,60}$")  # a quotation and its author
_SENTENCE_END = re.compile(r"[.!?。！？؟।…]")
_NOTHING = re.compile(
    r"[\s.,:;?!*_…–—-]+"
    r"|[\W_]{0,4}(?:no ?(?:output|input|answer|response)|n/?a|null|nan|todo|tbd)[\W_]{0,4}",
    re.IGNORECASE,
)
_PLACEHOLDERS = re.compile(
    r"\{\{\s{0,2}\w[\w .]{0,40}\}\}"  # of a template engine
    r"|\[(?:your|insert|enter|add|name|date|company|recipient|address)\b[^\]\n]{0,40}\]"
    r"|<(?:your|insert|enter|add|no ?(?:in|out)put)\b[^>\n]{0,40}>"
    r"|lorem ipsum",
    re.IGNORECASE,
)
_DANGLING = frozenset(  # words after which an English sentence goes on
    "a an the and or but nor of to in on at by for from with into as than that which who whose because if when while "
    "is are was were be been has have had will would can could should may might must this these those its their our "
    "your my his her".split()
)
PROSE_WORDS = 8  # a last line of fewer words may be a title, a name, a result


def incomplete(items: Sequence[Item]) -> Marks:
    """Items of which an answer breaks off or says nothing."""
    marks: Marks = {}
    for i, item in enumerate(items):
        for turn in item.messages:
            if turn.role == "assistant" and (why := broken_off(turn.content)):
                marks.setdefault(i, why)
    return marks


def placeholders(items: Sequence[Item]) -> Marks:
    """Items with a blank to be filled in, in any turn."""
    found = ((i, _PLACEHOLDERS.search("\n".join(t.content for t in item.messages))) for i, item in enumerate(items))
    return {i: excerpt(match[0]) for i, match in found if match}


def broken_off(answer: str) -> str | None:
    """Why this answer looks unfinished; None where it does not."""
    text = answer.rstrip()
    if _NOTHING.fullmatch(text):
        return f"says nothing: {excerpt(text) or 'blank'}"
    if len(_FENCE.findall(text)) % 2:
        return "code block not closed"
    last = text.splitlines()[-1]
    if _LIST_MARK.fullmatch(last) and len(text) > len(last):
        return f"empty list item: {excerpt(last)}"
    if _FENCE.search(text):
        return None  # what stands around code keeps no rule
    if text[-1] in ",(-–—、，（" and len(words(text)) >= PROSE_WORDS:
        return f"ends with {text[-1]}"
    return _mid_sentence(text, last)


def _mid_sentence(text: str, last: str) -> str | None:
    """Prose whose last line stops at a word, where the other sentences are closed."""
    said = words(last)
    if not said or _LIST_MARK.match(last) or _SIGNED.search(last[-80:]) or not _STOPS_AT_WORD.search(last[-80:]):
        return None
    long = PROSE_WORDS * (2 if mostly_unspaced(said) else 1)
    dangling = said[-1] in _DANGLING and text[-1].islower()
    if len(said) < long or not (dangling or _closes_others(text, last, long)):
        return None
    return f"ends mid-sentence: …{excerpt(last[-40:])}"


def _closes_others(text: str, last: str, long: int) -> bool:
    """Whether nearly all other lines of prose end like sentences; in text of one such line, whether one ends in it."""
    others = [line for line in text.splitlines()[:-1] if len(words(line)) >= long]
    closed = sum(bool(_SENTENCE_END.search(line.rstrip()[-2:])) for line in others)
    return closed >= 0.9 * len(others) if others else bool(_SENTENCE_END.search(last))
