"""Answers far longer than those to similar instructions, and answers that repeat themselves."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence

from instruct.audit.clusters import Cluster
from instruct.audit.kinds import Marks
from instruct.audit.outliers import high_outliers
from instruct.audit.source import Item
from instruct.audit.texts import joined, ngrams

RUN = 4  # words of a run whose repetition counts
ENOUGH = 20  # words below which nothing is said of length or repetition


def verbose(items: Sequence[Item], clusters: Sequence[Cluster], threshold: float) -> Marks:
    """Items whose answer is an outlier in length among those of its cluster, and longer than what it was given."""
    marks: Marks = {}
    for cluster in clusters:
        lengths = [len(items[i].answer_words) for i in cluster.members]
        median = statistics.median(lengths)
        for k in high_outliers([math.log1p(n) for n in lengths], threshold):
            i, n = cluster.members[k], lengths[k]
            if n >= ENOUGH and n >= 2 * median and n > len(items[i].asked_words):
                marks[i] = f"{n} words, its cluster's median is {median:.0f}"
    return dict(sorted(marks.items()))


def repetition(parts: Sequence[str]) -> float:
    """Share of four-word runs that stood in the text before."""
    runs = list(ngrams(parts, RUN))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def repetitive(items: Sequence[Item], threshold: float) -> Marks:
    """Items whose answer consists of runs that it repeats, by at least the threshold."""
    marks: Marks = {}
    for i, item in enumerate(items):
        share = repetition(item.answer_words)
        if share >= threshold and len(item.answer_words) >= ENOUGH:
            run, n = Counter(ngrams(item.answer_words, RUN)).most_common(1)[0]
            marks[i] = f"{share:.0%} repeated, {n} times: {joined(run)}"
    return marks
