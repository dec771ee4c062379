"""Parallel coordinates as inline SVG: one upright axis for each option and metric, one line for each point."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evals.notation import compact, escaped
from evals.plots import Frame, padded, ticks
from evals.sweep import as_number

WIDTH, HEIGHT, TOP, BOTTOM, SIDE = 1190.0, 330.0, 34.0, 16.0, 70.0
DECADES = 30.0  # positive numbers that span more than this are drawn by their logarithms


@dataclass(frozen=True)
class Axis:
    """Where values stand on an axis, as shares of its height, and its marks."""

    label: str
    places: Mapping[str, float]
    marks: Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Line:
    """One point's values by axis; None where it has none. `css` of report.css; `best` is drawn last and thick."""

    title: str
    values: Sequence[str | None]
    css: str
    best: bool = False


def axis_of(label: str, values: Sequence[str]) -> Axis:
    """Numbers by size, their logarithms where they span decades, anything else in the order in which it came."""
    distinct = list(dict.fromkeys(values))
    known = [number for number in map(as_number, distinct) if number is not None and math.isfinite(number)]
    if len(known) < len(distinct) or not known:
        step = 1 / max(len(distinct), 1)
        marks = [(step * (i + 0.5), value) for i, value in enumerate(distinct)]
        return Axis(label, {value: place for place, value in marks}, marks)
    by_logarithm = min(known) > 0 and max(known) > DECADES * min(known)
    scale = math.log10 if by_logarithm else float
    low, high = padded([scale(number) for number in known])

    def place(number: float) -> float:
        return (scale(number) - low) / (high - low)

    few = len(known) <= 6
    shown = known if few else [10**t for t in ticks(low, high, 4)] if by_logarithm else ticks(low, high, 5)
    marks = [(place(number), compact(number)) for number in shown]
    return Axis(label, {value: place(float(value)) for value in distinct}, marks)


def parallel_chart(title: str, labels: Sequence[str], lines: Sequence[Line]) -> str:
    """The lines through their axes; a line ends where its point has no value."""
    axes = [
        axis_of(label, [line.values[i] for line in lines if line.values[i] is not None])
        for i, label in enumerate(labels)
    ]
    frame = Frame(WIDTH, HEIGHT, (0.0, max(len(axes) - 1, 1)), (0.0, 1.0), SIDE, SIDE, TOP, BOTTOM)
    for line in sorted(lines, key=lambda line: line.best):
        corners = [(i, axis.places[v]) for i, axis in enumerate(axes) if (v := line.values[i]) is not None]
        drawn = "L".join(f"{frame.x(i):.1f} {frame.y(place):.1f}" for i, place in corners)
        frame.add(f'<path class="line {line.css}" d="M{drawn}"><title>{escaped(line.title)}</title></path>')
        for i, place in corners if line.best else ():
            frame.dot(i, place, f"dot {line.css}", 3.5, line.title)
    for i, axis in enumerate(axes):  # last, so that no line hides a mark
        draw_axis(frame, i, axis)
    return frame.svg(title)


def draw_axis(frame: Frame, i: int, axis: Axis) -> None:
    x = frame.x(i)
    frame.line(x, frame.y(0.0), x, frame.y(1.0), "axis")
    frame.text(x, TOP - 18, axis.label, "group")
    for place, mark in axis.marks:
        frame.line(x - 4, frame.y(place), x, frame.y(place), "axis")
        frame.text(x - 7, frame.y(place) + 3.5, mark, "tick halo", "end")
