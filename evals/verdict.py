"""Did the model get better, and at what cost? Answered in words, from paired intervals alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evals.intervals import Estimate
from evals.notation import number, signed
from evals.results import Metric, ModelResult, Report

Tone = Literal["better", "worse", "unclear"]
GOLD, PROXY = "gold.mean", "reward.mean"
HEADLINES = (Metric(GOLD, "gold mean", "higher", 3), Metric("rouge_l", "ROUGE-L", "higher", 3))  # the first one known


@dataclass(frozen=True)
class Verdict:
    """One model against its baseline."""

    model: str
    tone: Tone
    headline: str
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    costs: tuple[str, ...]  # the labels of what was lost
    notes: tuple[str, ...]


def direction(gain: Estimate | None, metric: Metric) -> Tone:
    """Whether the interval of a difference lies wholly on the good or the bad side of 0."""
    if gain is None or metric.better is None or not (gain.above_zero or gain.below_zero):
        return "unclear"
    return "better" if gain.above_zero == (metric.better == "higher") else "worse"


def change(model: ModelResult, metric: Metric, gain: Estimate) -> str:
    """`helpful +0.05 [+0.02, +0.08]`, or `win rate 0.61 [0.55, 0.66]` where the metric is a comparison itself."""
    shown, form = (gain, signed) if metric.even is None else (model.metrics[metric.key], number)
    mean, low, high = (form(value, metric.digits) for value in (shown.mean, shown.low, shown.high))
    return f"{metric.label} {mean} [{low}, {high}]{f' {metric.unit}' if metric.unit else ''}"


def judge(model: ModelResult, metrics: tuple[Metric, ...], of_tasks: tuple[Metric, ...] = ()) -> Verdict | None:
    """The verdict on one model by its gold score, or by its answers' nearness to the right ones; None where it was
    compared with nothing. Of tasks it says what changed alone."""
    headlined = next((metric for metric in HEADLINES if metric.key in model.gains), None)
    if model.baseline is None or headlined is None:
        return None
    gain = model.gains[headlined.key]
    tone = direction(gain, headlined)
    comparison = {
        "better": f"{model.name} is better than {model.baseline}",
        "worse": f"{model.name} is worse than {model.baseline}",
        "unclear": f"{model.name} cannot be told from {model.baseline}",
    }[tone]
    headline = f"{comparison}: {change(model, headlined, gain)} over {gain.n} prompts"
    changes: dict[Tone, list[tuple[str, str]]] = {"better": [], "worse": [], "unclear": []}
    for metric in (*metrics, *of_tasks):
        gain = model.gain(metric)
        if gain is not None and metric.better is not None and metric.key != headlined.key:
            changes[direction(gain, metric)].append((metric.label, change(model, metric, gain)))
    gained, lost = (tuple(text for _, text in changes[kind]) for kind in ("better", "worse"))
    costs = tuple(label for label, _ in changes["worse"])
    same = [label for label, _ in changes["unclear"] if label not in {metric.label for metric in of_tasks}]
    unchanged = (f"No measurable change in {listed(same)}.",) if same else ()
    return Verdict(model.name, tone, headline, gained, lost, costs, unchanged + notes(model, tone))


def notes(model: ModelResult, tone: Tone) -> tuple[str, ...]:
    """What a reader should weigh beside the gains: distance, length, and a reward that rose alone."""
    said = []
    proxy, kl, length = model.gains.get(PROXY), model.metrics.get("kl"), model.gains.get("length")
    if proxy is not None and proxy.above_zero and tone != "better":
        said.append(f"The learned reward rose by {signed(proxy.mean, 2)} while the gold score did not: over-optimised.")
    if kl is not None and kl.mean >= 0.05:
        said.append(f"It moved {number(kl.mean, 1)} nats per response from where it started.")
    if length is not None and (length.above_zero or length.below_zero):
        longer = "longer" if length.above_zero else "shorter"
        said.append(f"Answers are {number(abs(length.mean), 1)} tokens {longer}.")
    return tuple(said)


def verdicts(report: Report) -> list[Verdict]:
    """One for each model that was compared with another, in the order of the report."""
    return [v for model in report.models if (v := judge(model, report.metrics, report.of_tasks)) is not None]


def final_verdicts(report: Report) -> list[Verdict]:
    """Those of the models that were aligned last: no other was compared with them."""
    baselines = {model.baseline for model in report.models}
    return [v for v in verdicts(report) if v.model not in baselines]


def overall(report: Report) -> Tone:
    """Better if any final model is, worse if all are, unclear otherwise."""
    tones = {v.tone for v in final_verdicts(report)}
    return "better" if "better" in tones else "worse" if tones == {"worse"} else "unclear"


def answer(report: Report) -> str:
    """One sentence for the whole experiment, about the models that were aligned last."""
    final = final_verdicts(report)
    if not final:
        return "No model was compared with another, so nothing can be said."
    better = [v for v in final if v.tone == "better"]
    if not better:
        return f"No: {listed([v.model for v in final])} did not measurably improve on what came before."
    costs = list(dict.fromkeys(label for v in better for label in v.costs))
    gold = {model.name: model.metrics[GOLD].mean for model in report.models if GOLD in model.metrics}
    names = [v.model for v in better]
    best = max(names, key=lambda name: gold.get(name, float("-inf")))
    lead = f"Yes: {listed(names)} improved"
    lead += f", {best} most ({number(gold[best], 2)})" if len(names) > 1 and best in gold else ""
    cost = f"at a cost in {listed(costs)}" if costs else "at no measurable cost"
    failed = [v.model for v in final if v.tone != "better"]
    return f"{lead}, {cost}." + (f" {listed(failed)} did not." if failed else "")


def listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`"""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
