"""The tables and the picture of docs/scaling.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.curves import spread
from bench.throughput import THEORY
from bench.traffic import RINGS
from evals.markup import STYLE
from evals.notation import compact
from evals.plots import Frame, padded

PICTURE = "scaling.svg"
WIDTH, HEIGHT, LABELS = 620.0, 360.0, 64.0
COLOURS = ("c-sft", "c-dpo", "c-ppo", "c-other0")


def traffic_table(found: Mapping[str, Any]) -> str:
    """What is measured beside what ZeRO's paper says."""
    lines = ["| `deepspeed=` | a micro-batch | once a step | sent by each process, one micro-batch | theory |"]
    lines.append("|---|---|---|---|---|")
    for level, seen in found["traffic"].items():
        sent, said = (_rounds(part["micro"]) + _rounds(part["step"]) for part in (seen, THEORY[level]._asdict()))
        lines.append(f"| {level} | {_named(seen['micro'])} | {_named(seen['step'])} | {sent:.2f} Ψ | {said:g} Ψ |")
    return "\n".join(lines)


def throughput_table(found: Mapping[str, Any]) -> str:
    """Computed tokens a second, and what the plan recommends."""
    head = (
        "| model | GPUs | the plan | GiB a GPU | tokens/s, nothing overlaps | all overlaps | by the paper's traffic | "
        "communicating |"
    )
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for row in found["rows"]:
        way = (
            f"{row['level']}{', checkpointing' if row['checkpointing'] else ''}, {row['rows']} × {row['accumulation']}"
        )
        if not row["fits"]:
            lines.append(f"| {row['model']} | {row['gpus']} | nothing fits | {row['gib']:.1f} | – | – | – | – |")
            continue
        speeds = ["–"] * 4
        if "measured_apart" in row:
            seconds = row["measured_seconds"]
            speeds = [compact(row[name]) for name in ("measured_apart", "measured_together", "theory_apart")]
            speeds.append(f"{seconds['communication'] / sum(seconds.values()):.0%}")
        lines.append(f"| {row['model']} | {row['gpus']} | {way} | {row['gib']:.1f} | {' | '.join(speeds)} |")
    return "\n".join(lines)


def memory_table(found: Mapping[str, Any]) -> str:
    """The least that each level takes, and whether it fits."""
    levels = list(dict.fromkeys(level for row in found["rows"] for level in row["least_gib"]))
    usable = found["usable_gib"]
    lines = [f"| model | GPUs | {' | '.join(levels)} |", "|---|---|" + "---|" * len(levels)]
    for row in found["rows"]:
        cells = [row["least_gib"].get(level) for level in levels]
        shown = ["–" if x is None else f"{x:.1f}" if x <= usable else f"~~{x:.0f}~~" for x in cells]
        lines.append(f"| {row['model']} | {row['gpus']} | {' | '.join(shown)} |")
    return "\n".join(lines)


TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "traffic": traffic_table,
    "throughput": throughput_table,
    "memory": memory_table,
}


def picture(found: Mapping[str, Any]) -> str:
    """Tokens a second against GPUs, both on logarithmic axes; dashed where all communication hides."""
    models = list(dict.fromkeys(row["model"] for row in found["rows"]))
    lines = {
        model: [row for row in found["rows"] if row["model"] == model and "measured_apart" in row] for model in models
    }
    names = ("measured_apart", "measured_together")
    points = {(m, name): _points(rows, name) for m, rows in lines.items() if rows for name in names}
    everything = [point for line in points.values() for point in line]
    x_range, y_range = padded([x for x, _ in everything], 0.03), padded([y for _, y in everything], 0.06)
    frame = Frame(WIDTH, HEIGHT, x_range, y_range, right=LABELS, left=64.0)
    frame.y_axis("tokens/s, computed", n=4, form=lambda y: compact(10**y))
    frame.x_axis("GPUs", form=lambda x: f"{2**x:.0f}")
    ends = []
    for (model, name), line in points.items():
        colour = COLOURS[models.index(model) % len(COLOURS)]
        frame.path(line, f"{colour}{' dashed' if name == 'measured_together' else ''}")
        if name == "measured_apart":
            ends.append((model, colour, frame.y(line[-1][1])))
            for x, y in line:
                frame.dot(x, y, f"dot {colour}", 3.0, f"{model}, {2**x:.0f} GPUs: {compact(10**y)} tokens/s")
    for (model, colour), y in spread(ends):
        frame.text(WIDTH - LABELS + 8, y + 4, model, colour, "start")
    own = "svg{background:#fff;font:12px system-ui,sans-serif}\ntext[class^=c-]{fill:currentColor}"
    style = f"<style>{STYLE.read_text(encoding='utf-8')}\n{own}</style>"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" '
        f'aria-label="computed tokens a second by GPUs">{style}{"".join(frame.parts)}</svg>\n'
    )


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(math.log2(row["gpus"]), math.log10(row[name])) for row in rows]


def _rounds(payloads: Mapping[str, float]) -> float:
    return sum(RINGS[kind] * size for kind, size in payloads.items())


def _named(payloads: Mapping[str, float]) -> str:
    return ", ".join(f"{kind.replace('_', '-')} {size:.2f} Ψ" for kind, size in payloads.items()) or "–"
