"""Reward against distance from the start: the picture of over-optimisation (Gao et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from evals.notation import compact
from evals.plots import Frame, padded
from evals.results import Frontier, FrontierPoint

Reward = Literal["proxy", "gold"]


def root_kl(point: FrontierPoint) -> float:
    """The square root of a KL; an estimate that fell below 0 by chance counts as 0."""
    return math.sqrt(max(point.kl, 0.0))


def frontier_chart(frontiers: Sequence[Frontier], colours: Mapping[str, str], which: Reward) -> str:
    """One kind of reward by the square root of KL, a line for each run in the order of its checkpoints."""
    points = [point for frontier in frontiers for point in frontier.points]
    farthest = max(map(root_kl, points), default=0.0) or 1.0
    frame = Frame(520, 300, (0.0, farthest * 1.05), padded([getattr(p, which) for p in points], 0.1), left=52.0)
    frame.y_axis("learned reward" if which == "proxy" else "gold score")
    frame.x_axis("√KL from the start (√nats per response)")
    for frontier in frontiers:
        colour = colours[frontier.name]
        frame.path([(root_kl(p), getattr(p, which)) for p in frontier.points], colour)
        for point in frontier.points:
            value = getattr(point, which)
            step = "" if point.step is None else f" at step {point.step}"
            said = f"{frontier.name}{step}: {compact(value)} at {compact(point.kl)} nats"
            css, radius = ("kept", 6.5) if point.kept else ("dot", 3.2)
            frame.dot(root_kl(point), value, f"{css} {colour}", radius, said)
    return frame.svg(f"{which} reward by the square root of KL")
