"""All checks that need the texts alone, and what they found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from instruct.audit.clusters import Cluster, clusters
from instruct.audit.completeness import incomplete, placeholders
from instruct.audit.conciseness import repetitive, verbose
from instruct.audit.contamination import EvaluationPrompts, contaminated
from instruct.audit.duplicates import duplicate_ids, duplicates, inconsistent, near
from instruct.audit.kinds import Marks
from instruct.audit.language import language_switches, languages
from instruct.audit.source import Item, Source
from instruct.audit.texts import joined, mostly_unspaced, ngrams
from instruct.audit.toxicity import Scorer, toxic, toxicity
from models.errors import ConfigError


@dataclass
class Limits:
    """From where on a row is marked."""

    near_duplicate: float = 0.8  # Jaccard similarity of word triples with an earlier row
    ngram: int = 8  # words of the n-grams of contamination; twice as many characters in text without spaces
    contaminated: float = 0.5  # share of an evaluation prompt's n-grams that stand in the row
    repetitive: float = 0.3  # share of an answer's four-word runs that stood in it before
    toxic: float = 0.5  # the scorer's value
    outlier: float = 3.5  # robust standard deviations above the median, of losses and lengths
    lowest: float = 0.02  # share of rows, the lowest on each axis of the reward model
    doubtful: float = 0.5  # the judge's value, below which an answer is doubtful

    def __post_init__(self) -> None:
        for name in ("near_duplicate", "contaminated", "repetitive", "toxic", "doubtful"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"limits.{name}={getattr(self, name)}: must lie in (0, 1]")
        if self.ngram < 2:
            raise ConfigError(f"limits.ngram={self.ngram}: must be 2 or more")
        if not self.outlier > 0:
            raise ConfigError(f"limits.outlier={self.outlier}: must be above 0")
        if not 0 <= self.lowest < 1:
            raise ConfigError(f"limits.lowest={self.lowest}: must lie in [0, 1)")


@dataclass
class Findings:
    """What an audit knows of a source. Lists have one entry an item; `marks` holds what was looked for, by kind."""

    source: Source
    marks: dict[str, Marks]
    languages: list[str]
    clusters: list[Cluster]
    measures: dict[str, Sequence[float | None]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what a reader should know of how it was found

    @property
    def items(self) -> list[Item]:
        return self.source.items

    def marked_rows(self, name: str) -> dict[int, str]:
        """The rows with this mark, by their place in the source: why they have it."""
        rows: dict[int, str] = {}
        for i, why in self.marks.get(name, {}).items():
            rows.setdefault(self.items[i].row, why)
        return dict(sorted(rows.items()))


def check(source: Source, evaluation: EvaluationPrompts | None, scorer: Scorer, limits: Limits, seed: int) -> Findings:
    """Look at every instruction. scorer: of toxicity; seed: of the clusters."""
    items = source.items
    groups = clusters([item.instruction_words for item in items], seed)
    exact = duplicates(items)
    scores = toxicity(items, scorer)
    marks = {
        "duplicate": exact,
        "near_duplicate": near(items, limits.near_duplicate, exact),
        "duplicate_id": duplicate_ids(items),
        "inconsistent": inconsistent(items),
        "incomplete": incomplete(items),
        "placeholder": placeholders(items),
        "verbose": verbose(items, groups, limits.outlier),
        "repetitive": repetitive(items, limits.repetitive),
        "language_switch": language_switches(items),
        "toxic": toxic(scores, items, limits.toxic),
    }
    if evaluation:
        marks["contaminated"] = contaminated(items, evaluation, limits.contaminated)
    measures: dict[str, Sequence[float | None]] = {
        "instruction_words": [len(item.instruction_words) for item in items],
        "input_words": [len(item.asked_words) - len(item.instruction_words) for item in items],
        "answer_words": [len(item.answer_words) for item in items],
        "turns": [len(item.messages) for item in items],
        "toxicity": scores,
    }
    return Findings(source, marks, languages(items), groups, measures)


def distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    """Distinct-n (Li et al. 2016): different n-grams over all n-grams. It falls as a file grows."""
    runs = [run for words in texts for run in ngrams(words, n)]
    return len(set(runs)) / len(runs) if runs else 0.0


def openings(items: Sequence[Item]) -> Counter[str]:
    """First words of the instructions, pairs of characters in text without spaces: mostly verbs and question words."""
    heads = (item.instruction_words[: 2 if mostly_unspaced(item.instruction_words[:2]) else 1] for item in items)
    return Counter(joined(head) for head in heads if head)
