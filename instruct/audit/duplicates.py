"""Rows that say what another row says: exactly, nearly, under one id, or with another answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Sequence
from itertools import islice

from instruct.audit.kinds import Marks
from instruct.audit.minhash import near_duplicates, shingles
from instruct.audit.source import Item
from instruct.audit.texts import tokens
from models.split import text_key

N_NAMED = 3  # lines that a reason names


def duplicates(items: Sequence[Item]) -> Marks:
    """Conversations that stand in an earlier row."""
    return _repeated(items, lambda item: (item.prompt_key, text_key(item.answer)), "repeats line {}")


def duplicate_ids(items: Sequence[Item]) -> Marks:
    """Rows with the id of an earlier row."""
    return _repeated(items, lambda item: item.name, "id of line {}")


def near(items: Sequence[Item], threshold: float, exact: Collection[int]) -> Marks:
    """Conversations of much the same word triples as an earlier one, those that are `exact` duplicates aside."""
    rest = [i for i in range(len(items)) if i not in exact]
    said = ["\n".join(turn.content for turn in items[i].messages) for i in rest]
    found = near_duplicates([shingles(tokens(text)) for text in said], threshold)
    return {
        rest[i]: f"similarity {similarity:.2f} to line {items[rest[j]].line}"
        for i, (j, similarity) in found.items()
        if items[rest[i]].row != items[rest[j]].row
    }


def inconsistent(items: Sequence[Item]) -> Marks:
    """Conversations whose prompt has another answer elsewhere: right for open tasks, a contradiction for closed."""
    answers: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, item in enumerate(items):
        answers[item.prompt_key][text_key(item.answer)].append(i)
    marks: Marks = {}
    for by_answer in answers.values():
        for own in by_answer.values():
            others = (items[i].line for given in by_answer.values() if given is not own for i in given)
            if named := list(islice(others, N_NAMED + 1)):
                marks |= {i: f"line {_listed(named)} answers otherwise" for i in own}
    return dict(sorted(marks.items()))


def _repeated(items: Sequence[Item], key: Callable[[Item], Hashable], why: str) -> Marks:
    first: dict[Hashable, Item] = {}
    marks: Marks = {}
    for i, item in enumerate(items):
        if (name := key(item)) is not None:
            earlier = first.setdefault(name, item)
            if earlier.row != item.row:
                marks[i] = why.format(earlier.line)
    return marks


def _listed(lines: Sequence[int]) -> str:
    return ", ".join(map(str, lines[:N_NAMED])) + (", …" if len(lines) > N_NAMED else "")
