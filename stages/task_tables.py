"""The tables of tasks that a report shows, out of an entry of results.json: all models were measured on the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from evals.results import TASK_METRICS, Metric, TaskTable


def task_tables(found: Mapping[str, Any]) -> Iterator[TaskTable]:
    """The data's own questions with examples, the tasks that were named, and those of lm-evaluation-harness."""
    if "shots" in found:
        yield TaskTable("held-out questions", tuple(_with_examples(found, "")))
    for name, task in found.get("tasks", {}).items():
        place = f"tasks.{name}."
        alone = tuple(_known(task, place))
        told = tuple(metric.key for metric in alone if metric.key != f"{place}bits_per_byte")  # perplexity says it
        yield TaskTable(name, (*alone, *_with_examples(task, place)), told)
    for name, metrics in found.get("harness", {}).items():
        shown = tuple(
            Metric(f"harness.{name}.{metric}", metric, "higher" if value["higher_is_better"] else "lower", 3)
            for metric, value in metrics.items()
        )
        yield TaskTable(f"{name} (lm-eval)", shown, tuple(metric.key for metric in shown))


def _known(found: Mapping[str, Any], place: str) -> Iterator[Metric]:
    return (replace(metric, key=place + metric.key) for metric in TASK_METRICS if metric.key in found)


def _with_examples(found: Mapping[str, Any], place: str) -> Iterator[Metric]:
    for n in sorted(found.get("shots", {}), key=int):
        for metric in _known(found["shots"][n], f"{place}shots.{n}."):
            yield replace(metric, label=f"{metric.label}, up to {n} example{'s' if n != '1' else ''}")
