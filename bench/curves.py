"""Curves as an SVG file that stands alone, in the look of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evals.markup import STYLE
from evals.notation import compact
from evals.plots import Frame, Points, padded

WIDTH, HEIGHT = 460.0, 300.0  # of one panel
LABELS = 70.0  # room for the names at the ends of the lines


@dataclass(frozen=True)
class Curve:
    """A line through means, with the single runs as dots. `name` is written at its end; "" for none."""

    name: str
    colour: str
    points: Points
    runs: Points = ()
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One chart among several that share their x."""

    title: str
    curves: Sequence[Curve]


def curves(title: str, x_label: str, panels: Sequence[Panel]) -> str:
    """The panels side by side."""
    drawn = "".join(
        f'<g transform="translate({i * WIDTH:g} 0)">{"".join(panel_frame(panel, x_label).parts)}</g>'
        for i, panel in enumerate(panels)
    )
    style = STYLE.read_text(encoding="utf-8")
    own = "svg{background:#fff;font:12px system-ui,sans-serif}\ntext[class^=c-]{fill:currentColor}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH * len(panels):g} {HEIGHT:g}" role="img" '
        f'aria-label="{title}"><style>{style}\n{own}</style>{drawn}</svg>\n'
    )


def panel_frame(panel: Panel, x_label: str) -> Frame:
    """One panel, its lines named at their right ends."""
    shown = [point for curve in panel.curves for point in (*curve.points, *curve.runs)]
    x_range, y_range = padded([x for x, _ in shown], 0.03), padded([y for _, y in shown], 0.08)
    frame = Frame(WIDTH, HEIGHT, x_range, y_range, right=LABELS, top=30.0, left=52.0)
    frame.text(frame.left, 18, panel.title, "group", "start")
    frame.y_axis()
    frame.x_axis(x_label)
    for curve in panel.curves:
        frame.path(curve.points, f"{curve.colour}{' dashed' if curve.dashed else ''}")
        for x, y in curve.runs:
            frame.dot(x, y, f"dot {curve.colour}", 2.2, f"{curve.name}: {compact(y)}")
    for (name, colour), y in spread([(c.name, c.colour, frame.y(c.points[-1][1])) for c in panel.curves if c.name]):
        frame.text(WIDTH - LABELS + 6, y + 4, name, colour, "start")
    return frame


def spread(labels: Sequence[tuple[str, str, float]], gap: float = 14.0) -> list[tuple[tuple[str, str], float]]:
    """Labels with their heights, pushed down where one would cover another."""
    placed: list[tuple[tuple[str, str], float]] = []
    for name, colour, y in sorted(labels, key=lambda label: label[2]):
        lowest = placed[-1][1] + gap if placed else y
        placed.append(((name, colour), max(y, lowest)))
    return placed
