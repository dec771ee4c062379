"""The points of a sweep as a table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from launch.sweeps.points import readable
from train.points import Outcome
from train.sweeps import SweepRecord, short_names

COSTS = ("seconds", "tokens")


def show(name: str, record: SweepRecord, outcomes: Mapping[str, Outcome]) -> None:
    """One row a point: what varies, its objectives, its cost and its state; below, why some were not sealed."""
    shown = Table(title=f"{name}: {len(outcomes)} points")
    short = short_names(record.varied)
    named = any(point != readable(options, short) for point, options in record.points.items())
    metrics = [*record.objectives, *(cost for cost in COSTS if cost not in record.objectives)]
    for column in (*(["point"] if named else []), *short.values(), *metrics):
        shown.add_column(column, justify="right", overflow="fold")
    shown.add_column("state", overflow="fold")
    for point, outcome in outcomes.items():
        options = record.points[point]
        values = [outcome.metrics.get(metric) for metric in metrics]
        shown.add_row(
            *([point] if named else []),
            *(rounded(options.get(option, "")) for option in short),
            *("" if value is None else f"{value:.4g}" for value in values),
            outcome.state,
        )
    Console().print(shown)
    for point, outcome in outcomes.items():
        if outcome.cause:
            print(f"{point} {outcome.state}: {outcome.cause}")


def rounded(value: str) -> str:
    """An option as it was typed, or as it was drawn, with four digits."""
    try:
        return value if len(value) < 9 else f"{float(value):.4g}"
    except ValueError:
        return value
