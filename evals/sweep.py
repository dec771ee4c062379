"""The points of a sweep compared: which are beaten, which is chosen, and which options matter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

N_VALUES = 5  # an option with more values than this is a range, and is looked at in thirds


@dataclass(frozen=True)
class SweepPoint:
    """One setting. options: values by full names. state: sealed, pruned, failed or what it is doing, with the cause."""

    name: str
    options: Mapping[str, str]
    metrics: Mapping[str, float]
    state: str
    cause: str = ""


@dataclass(frozen=True)
class SweepResult:
    """Everything that the page shows. short: names of options. maximize, minimize: metrics that are objectives."""

    title: str
    points: Sequence[SweepPoint]
    short: Mapping[str, str]
    maximize: Sequence[str]
    minimize: Sequence[str]
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def objectives(self) -> tuple[str, ...]:
        return (*self.maximize, *self.minimize)

    @property
    def measured(self) -> list[SweepPoint]:
        """Sealed points that have every objective as a number."""
        return [
            point
            for point in self.points
            if point.state == "sealed" and all(math.isfinite(point.metrics.get(m, math.nan)) for m in self.objectives)
        ]

    def losses(self, point: SweepPoint) -> list[float]:
        """The objectives of a point, each so that less is better."""
        return [-point.metrics[m] for m in self.maximize] + [point.metrics[m] for m in self.minimize]

    def front(self) -> list[SweepPoint]:
        """The measured points that no other beats: is as good in every objective, and better in one."""
        measured = self.measured
        return [point for point in measured if not any(beats(self.losses(o), self.losses(point)) for o in measured)]

    def chosen(self) -> SweepPoint | None:
        """Of the front the point nearest to the best of every objective at once, each scaled to its range on the front;
        with one objective the best point."""
        front = self.front() if self.objectives else []
        columns = list(zip(*map(self.losses, front), strict=True))
        ranges = [(min(column), (max(column) - min(column)) or 1.0) for column in columns]

        def far(point: SweepPoint) -> float:
            return math.hypot(*((v - low) / wide for v, (low, wide) in zip(self.losses(point), ranges, strict=True)))

        return min(front, key=far, default=None)

    def importance(self, option: str, metric: str) -> float | None:
        """Share of the variance of a metric that lies between groups of an option's values: see `share_between`."""
        having = [point for point in self.measured if option in point.options]
        return share_between(groups([p.options[option] for p in having]), [p.metrics[metric] for p in having])


def beats(losses: Sequence[float], others: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(losses, others, strict=True)) and list(losses) != list(others)


def groups(values: Sequence[str]) -> list[int]:
    """The group of each value: one for each of a few values, thirds by rank of many numbers."""
    distinct = list(dict.fromkeys(values))
    numeric = [as_number(value) for value in distinct]
    if len(distinct) <= N_VALUES or None in numeric:
        return [distinct.index(value) for value in values]
    order = sorted(distinct, key=float)
    return [3 * order.index(value) // len(order) for value in values]


def share_between(group: Sequence[int], values: Sequence[float]) -> float | None:
    """Share of the variance that lies between groups, less what chance would put there: the adjusted R² of the groups'
    means (epsilon squared), not below 0. None where it cannot be told: no group twice, or nothing varies."""
    n, names = len(values), sorted(set(group))
    if n <= len(names) or len(names) < 2:
        return None
    total = sum_of_squares(values)
    within = sum(sum_of_squares([v for v, g in zip(values, group, strict=True) if g == name]) for name in names)
    if total <= 1e-15 * sum(v * v for v in values):
        return None
    return max(0.0, 1 - (within / (n - len(names))) / (total / (n - 1)))


def sum_of_squares(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values)


def as_number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None
