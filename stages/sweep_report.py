"""What the points of a sweep left, as the page of a sweep shows it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from evals.report import write_page
from evals.sweep import SweepPoint, SweepResult
from evals.sweep_page import columns, render_sweep
from models.errors import ArtifactError, ConfigError
from train.sweeps import RECORD, read_sweep, short_names
from train.tracking import TrackingConfig, open_tracker


def write_sweep_report(
    folder: Path, maximize: Sequence[str], minimize: Sequence[str], tracking: TrackingConfig
) -> Path:
    """Write report.html into the sweep's folder, and its table to the tracker as a run of its own."""
    result = sweep_result(folder, maximize, minimize)
    about = {"maximize": list(result.maximize), "minimize": list(result.minimize), "points": len(result.points)}
    tracker = open_tracker(tracking, folder, experiment=folder.name, stage="sweep", config=about)
    rows = [
        {
            "point": point.name,
            **{option: point.options.get(option) for option in result.short},
            **{metric: point.metrics.get(metric) for metric in columns(result)},
            "state": point.state,
            "cause": point.cause,
        }
        for point in result.points
    ]
    tracker.go_on_after(0)
    tracker.table("points", rows, step=len(rows))
    chosen = result.chosen()
    said = tracker.finish({metric: chosen.metrics[metric] for metric in result.objectives} if chosen else {})
    for line in filter(None, (tracker.where, said)):
        print(line, file=sys.stderr)
    return write_page(folder / "report.html", render_sweep(result))


def sweep_result(folder: Path, maximize: Sequence[str], minimize: Sequence[str]) -> SweepResult:
    """maximize, minimize: in place of the objectives that the sweep was typed with; both empty: those.

    Raises ArtifactError where no sweep has been, ConfigError for an objective that no point has.
    """
    record = read_sweep(folder)
    if record is None:
        raise ArtifactError(f"{folder}: no {RECORD}; expected the folder of a sweep, outputs/<name> of its name=")
    if not (maximize or minimize):
        maximize, minimize = record.maximize, record.minimize
    outcomes = record.outcomes(folder)
    known = {metric for outcome in outcomes.values() for metric in outcome.metrics}
    for metric in (*maximize, *minimize):
        if known and metric not in known:
            raise ConfigError(f"{metric}: not a metric of {folder}; there are {', '.join(sorted(known))}")
    points = [
        SweepPoint(name, record.points[name], outcome.metrics, outcome.state, outcome.cause)
        for name, outcome in outcomes.items()
    ]
    facts = {
        "stage": record.stage,
        "points": str(len(points)),
        "the same at all": " ".join(record.fixed) or "the defaults",
    }
    title = f"{folder.name}: {', '.join(short_names(record.varied).values())}"
    return SweepResult(title, points, short_names(record.varied), tuple(maximize), tuple(minimize), facts)
