from typing import Any, NamedTuple

from models.layout import Tree


class Sample(NamedTuple):
    ids: list
    ended: bool


class Question(NamedTuple):
    number: int
    prompt: Any
    ids: list
    fields: Any


class Answers(NamedTuple):
    question: Question
    samples: list

    @property
    def tree(self):
        return Tree.of(self.question.ids, [s.ids for s in self.samples])
