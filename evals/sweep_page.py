"""The page of a sweep: which point to take, what it cost, what matters, and what went wrong."""

from __future__ import annotations

import math

from evals.markup import document, empty, heading, meter
from evals.notation import compact, duration, escaped, foreign
from evals.parallel import Line, parallel_chart
from evals.plots import Frame, padded
from evals.sweep import SweepPoint, SweepResult, as_number

COSTS = {"seconds": "time", "tokens": "tokens", "peak_memory_mb": "memory, MB"}
N_METRICS = 6  # shown where no objective was named


def render_sweep(result: SweepResult) -> str:
    """The whole page."""
    sections = {
        "Points": ("points", points_section(result)),
        "Parallel coordinates": ("parallel", parallel_section(result)),
        "What matters": ("importance", importance_section(result)),
        **({"Trade-off": ("front", front_section(result))} if len(result.objectives) > 1 else {}),
        **({"Failed and pruned": ("causes", causes_section(result))} if without_end(result) else {}),
    }
    footer = "One run a point: differences within the spread of seeds say nothing; seed=0,1,2 shows that spread."
    return document(result.title, result.facts, answer(result), sections, footer)


def answer(result: SweepResult) -> str:
    """The first screen: the chosen point and why."""
    chosen = result.chosen()
    if chosen is not None:
        options = ", ".join(f"{short} {shown(chosen.options.get(o, '–'))}" for o, short in result.short.items())
        values = ", ".join(f"{metric} {compact(chosen.metrics[metric])}" for metric in result.objectives)
        says = f"Take {options}: {values}."
    elif result.objectives:
        says = "Nothing to choose from: no point has all objectives."
    else:
        says = "Nothing to choose by: say maximize=[…] or minimize=[…]."
    states = [f"{n} {state}" for state in ("sealed", "pruned", "failed") if (n := count(result, state))]
    counted = f"{len(result.points)} points: {', '.join(states) or 'none has ended'}."
    return (
        f'<section class="answer {"better" if chosen else "unclear"}">'
        f'<p class="question">Which point is the best?</p><p class="says">{foreign(says)}</p>'
        f'<p class="lead">{escaped(f"{how_chosen(result)} {counted}")}</p></section>'
    )


def how_chosen(result: SweepResult) -> str:
    chosen = result.chosen()
    if chosen is None:
        return ""
    if len(result.objectives) == 1:
        return f"{chosen.name} has the {'highest' if result.maximize else 'lowest'} {result.objectives[0]}."
    return (
        f"{len(result.front())} points are beaten by no other in all of {', '.join(result.objectives)}; of these "
        f"{chosen.name} is the nearest to the best of each at once, scaled to their ranges on the front."
    )


def columns(result: SweepResult) -> list[str]:
    """The metrics of the table: objectives and cost, or those that differ most from point to point."""
    costs = [cost for cost in COSTS if cost not in result.objectives]
    if result.objectives:
        return [*result.objectives, *costs]
    sealed = [point for point in result.points if point.state == "sealed"]
    names = dict.fromkeys(name for point in sealed for name in point.metrics if name not in COSTS)
    vary = [name for name in names if len({point.metrics.get(name) for point in sealed}) > 1]
    return [*vary[:N_METRICS], *costs]


def points_section(result: SweepResult) -> str:
    """One row a point, the best first."""
    metrics = columns(result)
    names = (*result.short.values(), *(COSTS.get(metric, metric) for metric in metrics))
    head = "".join(f"<th>{escaped(name)}</th>" for name in names)
    rows = []
    for point in ordered(result):
        options = "".join(f"<td>{foreign(shown(point.options.get(option, '–')))}</td>" for option in result.short)
        values = "".join(f"<td>{cell(point, metric)}</td>" for metric in metrics)
        mark = standing(result, point)
        tone = {"chosen": "better", "front": "better", "failed": "worse"}.get(mark, "unclear")
        pill = f'<td class="words"><span class="pill {tone}">{escaped(mark)}</span></td>'
        rows.append(f'<tr><th scope="row">{foreign(point.name)}</th>{options}{values}{pill}</tr>')
    head = f"<thead><tr><th></th>{head}<th></th></tr></thead>"
    table = f'<table class="numbers inline">{head}<tbody>{"".join(rows)}</tbody></table>'
    lead = "Objectives and cost of every point. The cost holds the stages that points share, too."
    return f'{heading("Points", lead)}<div class="scroll">{table}</div>'


def standing(result: SweepResult, point: SweepPoint) -> str:
    """`chosen`, `front` where there is more than one objective, or the point's state."""
    if point is result.chosen():
        return "chosen"
    return "front" if len(result.objectives) > 1 and point in result.front() else point.state


def ordered(result: SweepResult) -> list[SweepPoint]:
    """The measured points from the best in the first objective on, then the others."""
    measured = result.measured if result.objectives else []
    best_first = sorted(measured, key=lambda point: result.losses(point)[0])
    return [*best_first, *(point for point in result.points if point not in measured)]


def cell(point: SweepPoint, metric: str) -> str:
    if metric not in point.metrics:
        return "&ndash;"
    value = point.metrics[metric]
    return escaped(duration(value) if metric == "seconds" else compact(value))


def shown(value: str) -> str:
    """An option's value; a number that was drawn, with three digits."""
    number = as_number(value)
    return value if number is None or len(value) < 9 else compact(number)


def parallel_section(result: SweepResult) -> str:
    metrics = list(result.objectives or columns(result)[:2])
    if not count(result, "sealed"):
        return empty("Parallel coordinates", "No point was sealed.")
    lines = []
    for point in result.points:
        mark = standing(result, point)
        css = {"chosen": "c-ppo", "front": "c-sft", "sealed": "c-base"}.get(mark, "c-base dashed")
        values = [point.options.get(option) for option in result.short]
        values += [str(point.metrics[m]) if math.isfinite(point.metrics.get(m, math.nan)) else None for m in metrics]
        lines.append(Line(f"{point.name}: {mark}", values, css, best=mark == "chosen"))
    chart = parallel_chart("options and metrics of every point", [*result.short.values(), *metrics], lines)
    front = " Blue: beaten by no other." if len(result.objectives) > 1 else ""
    lead = f"A line for each point, from options to metrics. Orange: chosen.{front} Dashed: pruned or failed."
    return f"{heading('Parallel coordinates', lead)}<figure>{chart}</figure>"


def importance_section(result: SweepResult) -> str:
    """For each objective, the share of its variance that each option explains."""
    figures = []
    for metric in result.objectives:
        shares = {option: result.importance(option, metric) for option in result.short}
        known = sorted(((s, option) for option, s in shares.items() if s is not None), reverse=True)
        rows = "".join(
            f'<li><span class="said">{escaped(result.short[option])}</span>{meter(share)}<b>{share:.2f}</b></li>'
            for share, option in known
        )
        if rows:
            listed = f'<ol class="counts">{rows}</ol>'
            figures.append(f"<figure><figcaption>{escaped(metric)}</figcaption>{listed}</figure>")
    if not figures:
        return empty("What matters", "It takes an objective, and several points for a value of an option.")
    lead = (
        "The share of an objective's variance that lies between the values of an option, each of a few or thirds of a "
        "range, less what chance would put there (adjusted R²). What options do together counts for none of them."
    )
    return f'{heading("What matters", lead)}<div class="cols">{"".join(figures)}</div>'


def front_section(result: SweepResult) -> str:
    """Each later objective against the first."""
    first, *others = result.objectives
    if not result.measured:
        return empty("Trade-off", "No point has all objectives.")
    size = (520.0, 320.0) if len(others) > 1 else (1190.0, 330.0)
    figures = "".join(f"<figure>{front_chart(result, other, first, size)}</figure>" for other in others)
    lead = "Blue points are beaten by no other in all objectives at once. A ring marks the chosen one."
    return f'{heading("Trade-off", lead)}<div class="cols">{figures}</div>'


def front_chart(result: SweepResult, x: str, y: str, size: tuple[float, float]) -> str:
    measured, front, chosen = result.measured, result.front(), result.chosen()
    xs, ys = [p.metrics[x] for p in measured], [p.metrics[y] for p in measured]
    frame = Frame(*size, padded(xs), padded(ys), left=56.0)
    frame.y_axis(y)
    frame.x_axis(x)
    if len(result.objectives) == 2:
        frame.path(sorted((p.metrics[x], p.metrics[y]) for p in front), "c-sft dashed")
    for point in measured:
        css = "c-sft" if point in front else "c-base"
        said = f"{point.name}: {y} {compact(point.metrics[y])}, {x} {compact(point.metrics[x])}"
        ring = point is chosen
        frame.dot(point.metrics[x], point.metrics[y], f"{'kept' if ring else 'dot'} {css}", 6.5 if ring else 4.0, said)
    return frame.svg(f"{y} against {x}")


def without_end(result: SweepResult) -> list[SweepPoint]:
    return [point for point in result.points if point.state != "sealed"]


def causes_section(result: SweepResult) -> str:
    rows = "".join(
        f'<li class="{"severe" if point.state == "failed" else "mild"}"><b>{escaped(f"{point.name} {point.state}")}</b>'
        f"{foreign(point.cause)}</li>"
        for point in without_end(result)
    )
    lead = "In the words that the stage alone would have ended with."
    return f'{heading("Failed and pruned", lead)}<ul class="alerts">{rows}</ul>'


def count(result: SweepResult, state: str) -> int:
    return sum(point.state == state for point in result.points)
