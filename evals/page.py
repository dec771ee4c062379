"""The report's page: one function a section, each from plain data to HTML.

Every string that is not this file's own goes through `escaped` (labels) or `foreign` (what models and users wrote).
"""

from __future__ import annotations

from evals.answers import samples_section
from evals.best_of import best_of_section
from evals.course import lineage_section, training_section
from evals.ensemble import ensemble_section
from evals.frontier import frontier_chart
from evals.markup import colours, document, empty, heading, legend
from evals.notation import escaped, number
from evals.plots import Interval, interval_bars
from evals.results import GOLD_AXES, Metric, ModelResult, Report
from evals.retention import tasks_section
from evals.reward_section import reward_section
from evals.rl_section import rl_section
from evals.verdict import Verdict, answer, direction, final_verdicts, overall, verdicts


def render(report: Report) -> str:
    """The whole page."""
    sections = {
        "Reward model": ("reward", reward_section(report.reward_quality)),
        **({"Ensemble": ("ensemble", ensemble_section(report.ensemble))} if report.ensemble else {}),
    }
    courses = {f"RL: {escaped(c.stage)}": (f"rl-{i}", rl_section(c)) for i, c in enumerate(report.rl)}
    of_stages = {
        "Training": ("training", training_section(report.stages)),
        "Lineage": ("lineage", lineage_section(report.stages)),
    }
    if report.of_stages_alone:
        shown = sections if report.reward_quality else {}
        body, sections = alerts_section(report), {**courses, **shown, **of_stages}
    else:
        body = answer_section(report) + alerts_section(report)
        sections = {
            "Numbers": ("numbers", headline_section(report)),
            **({"Tasks": ("tasks", tasks_section(report))} if report.tasks else {}),
            "Axes": ("axes", axes_section(report)),
            "Reward and KL": ("frontier", frontier_section(report)),
            **({"Best of n": ("best-of", best_of_section(report))} if report.best_of else {}),
            **courses,
            **sections,
            "Answers": ("answers", samples_section(report)),
            **of_stages,
        }
    return document(
        report.title,
        report.facts,
        body,
        sections,
        "Intervals are 95 % bootstrap intervals over prompts; differences are paired on the same prompts.",
    )


def answer_section(report: Report) -> str:
    """The first screen: one sentence, then each model's gains and costs."""
    final = final_verdicts(report)
    earlier = [v for v in verdicts(report) if v not in final]
    cards = "".join(verdict_card(v) for v in final + earlier)
    return (
        f'<section class="answer {overall(report)}"><p class="question">Did the model get better, and at what cost?</p>'
        f'<p class="says">{escaped(answer(report))}</p><div class="verdicts">{cards}</div></section>'
    )


def verdict_card(verdict: Verdict) -> str:
    lost = verdict.lost or (("nothing measurably worse",) if verdict.tone == "better" else ())
    items = [("gain", line) for line in verdict.gained]
    items += [("loss" if verdict.lost else "note", line) for line in lost]
    items += [("note", line) for line in verdict.notes]
    rows = "".join(f'<li class="{kind}">{escaped(line)}</li>' for kind, line in items)
    pill = f'<span class="pill {verdict.tone}">{verdict.tone}</span>'
    return f'<article class="verdict"><h3>{pill}{escaped(verdict.headline)}</h3><ul>{rows}</ul></article>'


def alerts_section(report: Report) -> str:
    if not report.alerts:
        return ""
    rows = "".join(
        f'<li class="{"severe" if alert.severe else "mild"}"><b>{escaped(alert.stage)}</b>{escaped(alert.text)}</li>'
        for alert in report.alerts
    )
    return f'<section id="alerts"><h2>Alerts</h2><ul class="alerts">{rows}</ul></section>'


def headline_section(report: Report) -> str:
    """One row a model, one column a metric that any model has."""
    metrics = [m for m in report.metrics if any(m.key in model.metrics for model in report.models)]
    if not metrics:
        return empty("Numbers", "No model was evaluated.")
    tint = colours(model.name for model in report.models)
    n_gold = sum(m in GOLD_AXES for m in metrics)
    over = f'<tr class="over"><th></th><th class="span" colspan="{n_gold}">gold judge</th></tr>' if n_gold else ""
    names = "".join(f"<th>{escaped(m.label)}{f'<br>{escaped(m.unit)}' if m.unit else ''}</th>" for m in metrics)
    rows = "".join(
        f'<tr><th scope="row"><span class="{tint[model.name]}"><span class="swatch"></span></span>'
        f"{escaped(model.name)}</th>{''.join(cell(model, m) for m in metrics)}</tr>"
        for model in report.models
    )
    lead = (
        "Mean with its 95 % interval. "
        "A triangle marks a paired difference from the model's baseline whose interval excludes 0: green is better."
    )
    table = f'<table class="numbers"><thead>{over}<tr><th></th>{names}</tr></thead><tbody>{rows}</tbody></table>'
    return f'{heading("Numbers", lead)}<div class="scroll">{table}</div>'


def cell(model: ModelResult, metric: Metric) -> str:
    estimate = model.metrics.get(metric.key)
    if estimate is None:
        return "<td>&ndash;</td>"
    gain = model.gain(metric) if model.baseline is not None else None
    tone = direction(gain, metric)
    arrow = "" if gain is None or tone == "unclear" else " up" if gain.above_zero else " down"
    mean, low, high = (number(v, metric.digits) for v in (estimate.mean, estimate.low, estimate.high))
    return f'<td class="{tone}{arrow}" title="n = {estimate.n}"><b>{mean}</b><small>[{low}, {high}]</small></td>'


def axes_section(report: Report) -> str:
    models = [m for m in report.models if any(axis.key in m.metrics for axis in GOLD_AXES)]
    if not models:
        return empty("Helpful, honest, harmless", "No model has gold scores.")
    tint = colours(model.name for model in report.models)
    bars = [(m.name, tint[m.name], [interval(m, axis) for axis in GOLD_AXES]) for m in models]
    chart = interval_bars("gold scores by axis", [a.label for a in GOLD_AXES], bars, y_range=(0.0, 1.0))
    lead = "Gold score of each axis on held-out prompts, with 95 % intervals. Larger is better on every axis."
    shown = {m.name: tint[m.name] for m in models}
    return f"{heading('Helpful, honest, harmless', lead)}{legend(shown)}<figure>{chart}</figure>"


def interval(model: ModelResult, axis: Metric) -> Interval | None:
    estimate = model.metrics.get(axis.key)
    return None if estimate is None else Interval(estimate.mean, estimate.low, estimate.high)


def frontier_section(report: Report) -> str:
    if not any(frontier.points for frontier in report.frontiers):
        return empty("Reward against KL", "No checkpoint was scored along the way.")
    tint = colours(model.name for model in report.models)
    tint = {f.name: tint.get(f.name, f"c-other{i % 4}") for i, f in enumerate(report.frontiers)}
    panels = "".join(
        f"<figure><figcaption>{caption}</figcaption>{frontier_chart(report.frontiers, tint, which)}</figure>"
        for which, caption in (("proxy", "Learned reward (what training saw)"), ("gold", "Gold score (the truth)"))
    )
    lead = (
        "Each point is a checkpoint. Where the learned reward goes on rising and the gold score turns down, "
        "training exploits the reward model. A ring marks the checkpoint that was kept."
    )
    return f'{heading("Reward against KL", lead)}{legend(tint)}<div class="cols">{panels}</div>'
