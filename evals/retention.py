"""The report's section of tasks: what each model kept, gained and forgot."""

from __future__ import annotations

from evals.markup import colours, heading
from evals.notation import escaped, number, signed
from evals.results import Metric, ModelResult, Report, TaskTable
from evals.verdict import direction


def tasks_section(report: Report) -> str:
    """One table: a row a metric of a task, a column a model, below each value its change from the reference."""
    tint = colours(model.name for model in report.models)
    heads = "".join(
        f'<th><span class="{tint[m.name]}"><span class="swatch"></span></span>{escaped(m.name)}</th>'
        for m in report.models
    )
    rows = "".join(task_rows(table, report.models) for table in report.tasks)
    lead = (
        "Every task on every model, with 95 % intervals. Below a value stands its paired change from "
        f"{escaped(' and '.join(baselines(report)) or 'nothing')}: green is better, red was forgotten."
    )
    table = f'<table class="numbers tasks"><thead><tr><th></th><th></th>{heads}</tr></thead>{rows}</table>'
    return f'{heading("Before and after", lead)}<div class="scroll">{table}</div>'


def baselines(report: Report) -> list[str]:
    """What models were compared with."""
    return list(dict.fromkeys(model.baseline for model in report.models if model.baseline))


def task_rows(table: TaskTable, models: tuple[ModelResult, ...]) -> str:
    rows = ""
    for i, metric in enumerate(table.metrics):
        name = f'<th scope="rowgroup" rowspan="{len(table.metrics)}">{escaped(table.name)}</th>' if i == 0 else ""
        cells = "".join(task_cell(model, metric) for model in models)
        unit = f" <small>{escaped(metric.unit)}</small>" if metric.unit else ""
        rows += f'<tr>{name}<th scope="row">{escaped(metric.label)}{unit}</th>{cells}</tr>'
    return f"<tbody>{rows}</tbody>"


def task_cell(model: ModelResult, metric: Metric) -> str:
    estimate, change = model.metrics.get(metric.key), model.gains.get(metric.key)
    if estimate is None:
        return "<td>&ndash;</td>"
    mean, low, high = (number(value, metric.digits) for value in (estimate.mean, estimate.low, estimate.high))
    changed = ""
    if change is not None:
        by, least, most = (signed(value, metric.digits) for value in (change.mean, change.low, change.high))
        changed = f'<i class="{direction(change, metric)}">{by} [{least}, {most}]</i>'
    return f'<td title="n = {estimate.n}"><b>{mean}</b><small>[{low}, {high}]</small>{changed}</td>'
