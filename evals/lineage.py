"""The family tree of an experiment's artefacts, as SVG: which stage was made of which."""

from __future__ import annotations

from collections.abc import Sequence

from evals.notation import duration, memory
from evals.plots import Frame
from evals.results import StageRecord

WIDTH, ROW, BOX_HEIGHT = 1190.0, 82.0, 62.0


def depths(stages: Sequence[StageRecord]) -> dict[str, int]:
    """How many stages stand before each, on the longest way; parents outside of the list count as none."""
    known = {stage.name: stage for stage in stages}
    found: dict[str, int] = {}

    def depth(name: str, below: frozenset[str]) -> int:
        if name not in found:
            parents = [p for p in known[name].parents if p in known and p not in below]
            found[name] = max((depth(p, below | {name}) + 1 for p in parents), default=0)
        return found[name]

    for stage in stages:
        depth(stage.name, frozenset({stage.name}))
    return found


def direct_parents(stages: Sequence[StageRecord]) -> dict[str, list[str]]:
    """Each stage's parents, less those that are also ancestors of another parent: their arrows would say it twice."""
    depth, ancestors = depths(stages), {}
    direct: dict[str, list[str]] = {}
    for stage in sorted(stages, key=lambda s: depth[s.name]):
        parents = [p for p in stage.parents if depth.get(p, len(stages)) < depth[stage.name]]
        above = {p: ancestors[p] for p in parents}
        ancestors[stage.name] = set(parents).union(*above.values())
        direct[stage.name] = [p for p in parents if not any(p in of_parent for of_parent in above.values())]
    return direct


def lineage_chart(stages: Sequence[StageRecord]) -> str:
    """Boxes from left to right, each with time, memory and digest; arrows from parents to children."""
    depth = depths(stages)
    columns = [[s for s in stages if depth[s.name] == d] for d in range(max(depth.values(), default=0) + 1)]
    n_rows = max(len(column) for column in columns)
    step = WIDTH / len(columns)
    box_width = min(step - 36.0, 190.0)
    frame = Frame(WIDTH, n_rows * ROW, (0.0, 1.0), (0.0, 1.0))
    corners = {
        stage.name: (
            d * step + (step - box_width) / 2,
            (n_rows - len(column)) * ROW / 2 + r * ROW + (ROW - BOX_HEIGHT) / 2,
        )
        for d, column in enumerate(columns)
        for r, stage in enumerate(column)
    }
    for child, parents in direct_parents(stages).items():
        for parent in parents:
            draw_arrow(frame, corners[parent], corners[child], box_width)
    for stage in stages:
        draw_box(frame, stage, corners[stage.name], box_width)
    return frame.svg("lineage of the artefacts")


def draw_arrow(frame: Frame, start: tuple[float, float], end: tuple[float, float], box_width: float) -> None:
    x1, y1 = start[0] + box_width, start[1] + BOX_HEIGHT / 2
    x2, y2 = end[0] - 7.0, end[1] + BOX_HEIGHT / 2
    middle = (x1 + x2) / 2
    curve = f"M{x1:.1f} {y1:.1f} C{middle:.1f} {y1:.1f} {middle:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
    frame.add(
        f'<path class="arrow" d="{curve}"/><path class="arrowhead" d="M{x2:.1f} {y2 - 4.5:.1f} l7 4.5 l-7 4.5 z"/>'
    )


def draw_box(frame: Frame, stage: StageRecord, corner: tuple[float, float], width: float) -> None:
    x, y = corner
    frame.add(f'<rect class="box" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{BOX_HEIGHT:g}" rx="7"/>')
    frame.text(x + 12, y + 21, stage.name, "boxname", "start")
    frame.text(x + 12, y + 38, f"{duration(stage.seconds)} · {memory(stage.peak_bytes)}", "tick", "start")
    frame.text(x + 12, y + 53, stage.digest[:12], "digest", "start")
