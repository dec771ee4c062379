"""How far several judges of the same responses agree, and what that leaves for a model to reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

from models.scorer import AXES
from reward.rankings import AxisScores


@dataclass
class Agreement:
    """On one axis: pairs of responses that two judges both ordered, and how many of these alike."""

    alike: int = 0
    pairs: int = 0

    @property
    def share(self) -> float:
        return self.alike / self.pairs

    @property
    def ceiling(self) -> float:
        """The accuracy of the truth itself against one judge's labels, if judges err alike and independently.

        Two who are right with probability a agree with probability a² + (1 - a)².
        """
        return 0.5 + 0.5 * max(2 * self.share - 1, 0.0) ** 0.5

    def as_dict(self) -> dict[str, float]:
        return {"share": self.share, "ceiling": self.ceiling, "pairs": self.pairs}


@dataclass
class JudgesAgreement:
    """The agreement on each axis, over all rankings that were added."""

    by_axis: dict[str, Agreement] = field(default_factory=lambda: {axis: Agreement() for axis in AXES})

    def add(self, votes: Sequence[Sequence[AxisScores]]) -> None:
        """votes: J × K of one ranking."""
        for a, axis in enumerate(AXES):
            found = self.by_axis[axis]
            for one, other in combinations(votes, 2):
                for i, j in combinations(range(len(one)), 2):
                    first, second = _order(one[i][a], one[j][a]), _order(other[i][a], other[j][a])
                    found.pairs += first * second != 0
                    found.alike += first * second > 0

    def as_dict(self) -> dict[str, dict[str, float]]:
        """Of the axes that two judges both spoke of."""
        return {axis: found.as_dict() for axis, found in self.by_axis.items() if found.pairs}

    def __str__(self) -> str:
        """One line, empty where no pair was judged twice."""
        said = (
            f"{axis} {found.share:.1%} of {found.pairs} pairs, so at most {found.ceiling:.1%} can be right of one judge"
            for axis, found in self.by_axis.items()
            if found.pairs
        )
        return ", ".join(said)


def _order(first: float | None, second: float | None) -> int:
    """1 where the first is better, -1 where the second is, 0 where that is not known."""
    return 0 if first is None or second is None else (first > second) - (first < second)
