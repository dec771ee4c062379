"""Prompts of evaluation files that training rows hold: n-grams of words, of characters in text without spaces."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from instruct.audit.kinds import Marks
from instruct.audit.source import Item
from instruct.audit.texts import mostly_unspaced, ngrams, words
from instruct.prompts import asked_in
from models.errors import DataError
from models.reading import Reading, read_records

Gram = tuple[str, ...]


@dataclass
class EvaluationPrompts:
    """Evaluation prompts by their n-grams. One of fewer than n words has a single gram, all its words."""

    places: list[str] = field(default_factory=list)  # file and line of each prompt
    sizes: list[int] = field(default_factory=list)  # distinct n-grams of each prompt
    holders: dict[Gram, list[int]] = field(default_factory=lambda: defaultdict(list))
    lengths: set[int] = field(default_factory=set)  # of the grams
    whole: dict[Gram, int] = field(default_factory=dict)  # prompts of fewer than n words
    readings: list[Reading] = field(default_factory=list)

    def add(self, text: str, place: str, n: int) -> None:
        """One prompt, under n-grams of n words or of 2n characters."""
        parts = words(text)
        n *= 2 if mostly_unspaced(parts) else 1
        grams = set(ngrams(parts, n))
        number = len(self.places)
        self.places.append(place)
        self.sizes.append(len(grams))
        if not grams:
            self.whole.setdefault(tuple(parts), number)
            return
        self.lengths.add(n)
        for gram in grams:
            self.holders[gram].append(number)

    def held_by(self, item: Item) -> tuple[float, str]:
        """The largest share of a prompt's n-grams that stand in the item, and where that prompt is.

        A prompt of fewer than n words counts where a user's turn is just that.
        """
        for turn in item.prompt:
            if turn.role == "user" and (number := self.whole.get(tuple(words(turn.content)))) is not None:
                return 1.0, self.places[number]
        counts: Counter[int] = Counter()
        for turn in item.messages:
            parts = words(turn.content)
            for n in self.lengths:
                counts.update(number for gram in set(ngrams(parts, n)) for number in self.holders.get(gram, ()))
        shares = ((min(count / self.sizes[i], 1.0), -i) for i, count in counts.items())
        share, best = max(shares, default=(0.0, 0))
        return share, self.places[-best] if counts else ""


def read_evaluation_prompts(paths: Sequence[str], n: int, on_bad_row: str, on_unusable: str) -> EvaluationPrompts:
    """The prompts of evaluation files, in any form that instruct.prompts knows. DataError where a file has none."""
    found = EvaluationPrompts()
    for path in paths:
        if Path(path).suffix and not Path(path).exists():
            raise DataError(f"{path}: no such file; check against and data.eval_path")
        reading = Reading(path, on_bad_row, on_unusable)
        found.readings.append(reading)
        for asked in read_records(reading, asked_in):
            place = f"{Path(path).name}:{asked.origin.line}"
            for turn in asked.prompt:
                if turn.role == "user":
                    found.add(turn.content, place, n)
        if not reading.n_kept:
            raise DataError(f"{path}: no prompt among {reading.n_rows} rows; name a file of prompts in against")
    return found


def contaminated(items: Sequence[Item], prompts: EvaluationPrompts, threshold: float) -> Marks:
    """Items that hold at least `threshold` of the n-grams of an evaluation prompt."""
    marks: Marks = {}
    for i, item in enumerate(items):
        share, place = prompts.held_by(item)
        if place and share >= threshold:
            marks[i] = f"{share:.0%} of {place}"
    return marks
