"""Charts as inline SVG: axes, ticks, lines, points and intervals, made by hand so that a report needs nothing else.

Colours, fonts and line widths are those of report.css; a chart only says what stands where.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from evals.notation import compact, escaped

Points = Sequence[tuple[float, float]]
N_DRAWN = 240  # points of one line; longer ones are averaged down


@dataclass(frozen=True)
class Series:
    """A line or a row of points. `colour` is a CSS class of report.css."""

    name: str
    points: Points
    colour: str
    faint: bool = False
    dashed: bool = False


def ticks(low: float, high: float, n: int = 5) -> list[float]:
    """About n round numbers that lie in [low, high]: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / n
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(m for m, limit in ((1, 1.5), (2, 3.5), (5, 7.5), (10, 11)) if rough < limit * power)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # Rounding removes 0.30000000000000004; a step of 2e-5 has 5 decimals that matter.
    return [round(i * step, max(0, 2 - math.floor(math.log10(step)))) for i in range(first, last + 1)]


def padded(values: Sequence[float], share: float = 0.06) -> tuple[float, float]:
    """The range of the values with some air; a range of one value, or of none, is made wide enough to draw."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low <= 1e-12 * max(abs(high), abs(low), 1e-300):
        air = abs(high) * 0.1 or 1.0
        return low - air, high + air
    air = share * (high - low)
    return low - air, high + air


@dataclass(frozen=True)
class Frame:
    """The rectangle that data is drawn in, with the margins that its labels need. Lengths in SVG units."""

    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    left: float = 46.0
    right: float = 14.0
    top: float = 12.0
    bottom: float = 38.0
    parts: list[str] = field(default_factory=list)

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.height - self.bottom - (value - low) / (high - low) * (self.height - self.top - self.bottom)

    def add(self, part: str) -> None:
        self.parts.append(part)

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        self.add(f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def text(self, x: float, y: float, text: str, css: str = "", anchor: str = "middle") -> None:
        self.add(f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escaped(text)}</text>')

    def dot(self, x: float, y: float, css: str, radius: float, title: str) -> None:
        self.add(
            f'<circle class="{css}" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="{radius}">'
            f"<title>{escaped(title)}</title></circle>"
        )

    def y_axis(self, label: str = "", n: int = 5, form: Callable[[float], str] = compact) -> None:
        """Grid lines with their values, and the axis's name above."""
        for value in ticks(*self.y_range, n):
            self.line(self.left, self.y(value), self.width - self.right, self.y(value), "grid")
            self.text(self.left - 7, self.y(value) + 3.5, form(value), "tick", "end")
        if label:
            middle = (self.top + self.height - self.bottom) / 2
            self.add(
                f'<text class="label" transform="translate(12 {middle:.1f}) rotate(-90)" text-anchor="middle">'
                f"{escaped(label)}</text>"
            )

    def x_axis(self, label: str = "", n: int = 6, form: Callable[[float], str] = compact) -> None:
        """The base line with its ticks, their values and its name below."""
        base = self.height - self.bottom
        self.line(self.left, base, self.width - self.right, base, "axis")
        for value in ticks(*self.x_range, n):
            self.line(self.x(value), base, self.x(value), base + 4, "axis")
            self.text(self.x(value), base + 16, form(value), "tick")
        if label:
            self.text((self.left + self.width - self.right) / 2, self.height - 5, label, "label")

    def path(self, points: Points, css: str) -> None:
        """A line through the points, broken where one is no number."""
        pieces, pen = [], "M"
        for x, y in points:
            if not (math.isfinite(x) and math.isfinite(y)):
                pen = "M"
                continue
            pieces.append(f"{pen}{self.x(x):.1f} {self.y(y):.1f}")
            pen = "L"
        self.add(f'<path class="line {css}" d="{" ".join(pieces)}"/>')

    def svg(self, title: str) -> str:
        """The finished chart. `title` is read by screen readers and shown on hover."""
        return (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" aria-label="{escaped(title)}">'
            f"{''.join(self.parts)}</svg>"
        )


def finite_points(points: Points) -> Points:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def thinned(points: Points) -> Points:
    """At most N_DRAWN points: means of equal runs, which keep the shape and not the noise."""
    size = math.ceil(len(points) / N_DRAWN)
    if size <= 1:
        return points
    runs = [points[start : start + size] for start in range(0, len(points), size)]
    return [tuple(sum(column) / len(run) for column in zip(*run, strict=True)) for run in runs]  # type: ignore[misc]


def smoothed(points: Points) -> Points:
    """A running mean over a fifteenth of the points, centred and shorter at the ends."""
    half = len(points) // 30
    return [
        (points[i][0], sum(y for _, y in window) / len(window))
        for i in range(len(points))
        for window in [points[max(0, i - half) : i + half + 1]]
    ]


def line_chart(
    title: str, series: Sequence[Series], *, x_label: str, y_label: str = "", size: tuple[float, float] = (290, 170)
) -> str:
    """Lines over a common x. Long noisy lines are drawn faint, with their running mean on top."""
    drawn = [Series(s.name, thinned(finite_points(s.points)), s.colour, s.faint, s.dashed) for s in series]
    values = [p for s in drawn for p in s.points]
    xs, ys = [x for x, _ in values], [y for _, y in values]
    frame = Frame(*size, padded(xs, 0.0), padded(ys, 0.08))
    frame.y_axis(y_label, n=4)
    frame.x_axis(x_label, n=5)
    for s in drawn:
        noisy = len(s.points) >= 60
        frame.path(s.points, f"{s.colour}{' faint' if noisy or s.faint else ''}{' dashed' if s.dashed else ''}")
        if noisy:
            frame.path(smoothed(s.points), s.colour)
        if len(s.points) == 1:
            frame.dot(*s.points[0], f"dot {s.colour}", 3.5, f"{s.name}: {compact(s.points[0][1])}")
    return frame.svg(title)


@dataclass(frozen=True)
class Interval:
    """A bar with whiskers. None is drawn as a gap."""

    mean: float
    low: float
    high: float


def interval_bars(
    title: str,
    groups: Sequence[str],
    bars: Sequence[tuple[str, str, Sequence[Interval | None]]],
    *,
    y_range: tuple[float, float] | None = None,
    size: tuple[float, float] = (1190, 300),
) -> str:
    """Bars in groups, each with its value and whiskers. bars: (name, colour, one interval a group)."""
    shown = [v for _, _, values in bars for v in values if v is not None]
    low, high = y_range or padded([0.0, *(v.high for v in shown), *(v.low for v in shown)])
    frame = Frame(*size, (0.0, float(len(groups))), (low, high), top=20.0, bottom=28.0)
    frame.y_axis()
    slot = min(0.76 / max(len(bars), 1), 0.2)
    start = (1.0 - slot * len(bars)) / 2
    for g, group in enumerate(groups):
        frame.text(frame.x(g + 0.5), size[1] - 8, group, "group")
        for b, (name, colour, values) in enumerate(bars):
            if (value := values[g]) is not None:
                draw_bar(frame, g + start + slot * (b + 0.07), slot * 0.86, value, colour, f"{name}, {group}")
    frame.line(frame.left, frame.y(max(low, 0.0)), size[0] - frame.right, frame.y(max(low, 0.0)), "axis")
    return frame.svg(title)


def draw_bar(frame: Frame, x: float, width: float, value: Interval, colour: str, title: str) -> None:
    """One bar from 0 (or the lower edge), its whisker and its value above."""
    zero = frame.y(min(max(0.0, frame.y_range[0]), frame.y_range[1]))
    top = frame.y(value.mean)
    left, right = frame.x(x), frame.x(x + width)
    frame.add(
        f'<rect class="bar {colour}" x="{left:.1f}" y="{min(top, zero):.1f}" width="{right - left:.1f}" '
        f'height="{abs(zero - top):.1f}" rx="2"><title>{escaped(title)}: {value.mean:.3f} '
        f"[{value.low:.3f}, {value.high:.3f}]</title></rect>"
    )
    middle = (left + right) / 2
    frame.line(middle, frame.y(value.low), middle, frame.y(value.high), "whisker")
    for end in (value.low, value.high):
        frame.line(middle - 4, frame.y(end), middle + 4, frame.y(end), "whisker")
    frame.text(middle, frame.y(max(value.high, value.mean)) - 5, f"{value.mean:.2f}", "value")


def reliability_chart(title: str, bins: Sequence[tuple[float, float, int]], colour: str) -> str:
    """Confidence against accuracy, (confidence, accuracy, count) each; areas of the points are shares of the pairs."""
    full = [b for b in bins if b[2] > 0]
    low = min([0.5, *(min(c, a) for c, a, _ in full)])
    frame = Frame(370, 300, (low, 1.0), (low, 1.0))
    frame.y_axis("share right", n=5)
    frame.x_axis("predicted probability of the winner", n=5)
    frame.line(frame.x(low), frame.y(low), frame.x(1.0), frame.y(1.0), "diagonal")
    frame.path([(c, a) for c, a, _ in full], colour)
    total = sum(n for _, _, n in full)
    for confidence, accuracy, n in full:
        said = f"says {confidence:.2f}, right {accuracy:.2f}, {n} pairs"
        frame.dot(confidence, accuracy, f"dot {colour}", round(2.5 + 8.0 * math.sqrt(n / total), 1), said)
    return frame.svg(title)


def share_bar(title: str, parts: Sequence[tuple[str, float]]) -> str:
    """One horizontal bar cut by shares, widths in proportion; names where there is room."""
    total = sum(value for _, value in parts) or 1.0
    frame = Frame(1190, 44, (0.0, total), (0.0, 1.0), left=0.0, right=0.0, top=0.0, bottom=0.0)
    start = 0.0
    for i, (name, value) in enumerate(parts):
        left, right = frame.x(start), frame.x(start + value)
        share = f"{value / total:.0%}"
        frame.add(
            f'<rect class="part part{i % 8}" x="{left:.1f}" y="4" width="{max(right - left - 1.5, 0.5):.1f}" '
            f'height="36" rx="3"><title>{escaped(name)}: {share}</title></rect>'
        )
        if right - left > 9 + 7 * len(f"{name} {share}"):
            frame.text((left + right) / 2, 27, f"{name} {share}", "onpart")
        start += value
    return frame.svg(title)
