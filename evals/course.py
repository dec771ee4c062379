"""The report's sections about the course of the experiment: curves, where the time went, lineage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evals.lineage import lineage_chart
from evals.markup import colours, empty, heading
from evals.notation import compact, duration, escaped, memory
from evals.plots import Series, line_chart, share_bar
from evals.results import StageRecord


def training_section(stages: Sequence[StageRecord]) -> str:
    shown = [stage for stage in stages if stage.curves or stage.time_split]
    if not shown:
        return empty("Training", "No stage left curves.")
    lead = "Every logged quantity by optimizer step; held-out values are dashed. Thick lines are running means."
    blocks = "".join(
        f"<details{' open' if stage.time_split else ''}><summary>{escaped(stage.name)}"
        f"<small>{duration(stage.seconds)}</small></summary>"
        f"{time_split_bar(stage.name, stage.time_split)}{curves(stage)}</details>"
        for stage in shown
    )
    return heading("Training", lead) + blocks


def time_split_bar(stage: str, seconds: Mapping[str, float]) -> str:
    """Where a stage's time went, by part."""
    if not seconds:
        return ""
    parts = sorted(seconds.items(), key=lambda part: -part[1])
    said = "".join(
        f'<span><span class="part{i % 8}"><span class="swatch"></span></span>{escaped(name)} {duration(took)}</span>'
        for i, (name, took) in enumerate(parts)
    )
    return f'<h3>Where the time went</h3>{share_bar(f"time of {stage}", parts)}<p class="legend">{said}</p>'


def curves(stage: StageRecord) -> str:
    """Small charts, training and held-out values of one quantity together."""
    names = dict.fromkeys(name.removeprefix("eval_") for name in stage.curves)
    charts = []
    for name in names:
        series = [
            Series(label, stage.curves[key], colours([stage.name])[stage.name], dashed=dashed)
            for key, label, dashed in ((name, "training", False), (f"eval_{name}", "held out", True))
            if stage.curves.get(key)
        ]
        if series:
            last = compact(series[-1].points[-1][1])
            chart = line_chart(f"{stage.name}: {name}", series, x_label="step")
            charts.append(
                f'<figure><figcaption>{escaped(name)}<span class="now">last {last}</span></figcaption>{chart}</figure>'
            )
    return f'<div class="curves">{"".join(charts)}</div>'


def lineage_section(stages: Sequence[StageRecord]) -> str:
    if not stages:
        return empty("Lineage", "No stage was recorded.")
    total = duration(sum(stage.seconds for stage in stages))
    lead = (
        "Which artefact was made of which, with wall time, peak memory and the digest that names it. "
        f"All stages together: {total}."
    )
    details = "".join(map(stage_details, stages))
    return f"{heading('Lineage', lead)}<figure>{lineage_chart(stages)}</figure>{details}"


def stage_details(stage: StageRecord) -> str:
    facts = f"{duration(stage.seconds)} · {memory(stage.peak_bytes)} · {escaped(stage.digest)}"
    inside = f"{made_of(stage)}{table('Config', stage.config)}{table('Metrics', stage.metrics)}"
    return f"<details><summary>{escaped(stage.name)}<small>{facts}</small></summary>{inside}</details>"


def made_of(stage: StageRecord) -> str:
    return f"<p class='lead'>made of {escaped(', '.join(stage.parents))}</p>" if stage.parents else ""


def table(title: str, entries: Mapping[str, object]) -> str:
    if not entries:
        return ""
    rows = "".join(
        f"<dt>{escaped(name)}</dt><dd>{escaped(compact(value) if isinstance(value, float) else value)}</dd>"
        for name, value in entries.items()
    )
    return f"<h3>{title}</h3><dl>{rows}</dl>"
