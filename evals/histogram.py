"""Histograms as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

from evals.notation import compact, escaped
from evals.plots import Frame

N_BINS = 28
SEEN = 0.99  # share of the values that get bins of their own; the last bin holds the rest too


def histogram(title: str, values: Sequence[float], colour: str, x_label: str) -> str:
    """How many values lie where. A long tail is gathered in the last bin, whose title says so."""
    edges = bin_edges(values)
    counts = [0] * (len(edges) - 1)
    for value in values:
        counts[min(int((value - edges[0]) / (edges[1] - edges[0])), len(counts) - 1)] += 1
    frame = Frame(370, 180, (edges[0], edges[-1]), (0.0, 1.06 * max(counts, default=1)))
    frame.y_axis(n=4)
    for i, n in enumerate(counts):
        if n:
            draw_bin(frame, edges[i], edges[i + 1], n, colour, to=max(values) if i == len(counts) - 1 else edges[i + 1])
    frame.x_axis(x_label, n=5)
    return frame.svg(title)


def bin_edges(values: Sequence[float]) -> list[float]:
    """Edges of equal bins, of whole width where all values are whole numbers."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[math.ceil(SEEN * len(ordered)) - 1]
    if all(float(value).is_integer() for value in ordered):
        width = float(max(1, math.ceil((high - low + 1) / N_BINS)))
        return [low + width * i for i in range(math.ceil((high - low + 1) / width) + 1)]
    width = (high - low) / N_BINS or 1.0
    return [low + width * i for i in range(N_BINS + 1)]


def draw_bin(frame: Frame, low: float, high: float, n: int, colour: str, to: float) -> None:
    left, right, top = frame.x(low), frame.x(high), frame.y(n)
    said = f"{compact(low)} to {compact(to)}: {n:,}"
    frame.add(
        f'<rect class="bar {colour}" x="{left + 0.5:.1f}" y="{top:.1f}" width="{max(right - left - 1, 0.5):.1f}" '
        f'height="{frame.height - frame.bottom - top:.1f}" rx="1"><title>{escaped(said)}</title></rect>'
    )
