"""Values far from the rest."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def high_outliers(values: Sequence[float | None], threshold: float) -> list[int]:
    """Indices of values whose modified z-score is above the threshold (Iglewicz and Hoaglin 1993: 3.5).

    The score is 0.6745 (x - median) / MAD; where more than half of the values are equal the mean absolute deviation
    stands for the MAD, as 1.2533 times it does. None is no value.
    """
    known = [value for value in values if value is not None]
    if len(known) < 3:
        return []
    middle = statistics.median(known)
    distances = [abs(value - middle) for value in known]
    scale = statistics.median(distances) / 0.6745 or statistics.mean(distances) * 1.2533
    if scale == 0:
        return []
    return [i for i, value in enumerate(values) if value is not None and (value - middle) / scale > threshold]


def lowest(values: Sequence[float | None], share: float) -> list[int]:
    """Indices of the lowest values, that share of the known ones rounded down; ties by their order."""
    known = [i for i, value in enumerate(values) if value is not None]
    return sorted(sorted(known, key=lambda i: (values[i], i))[: int(share * len(known))])
