"""The report's section of answers: the same prompts, answered by each model, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from evals.markup import colours, empty, heading
from evals.notation import compact, escaped, foreign
from evals.results import Answer, Report, Sample


def samples_section(report: Report) -> str:
    """The same prompts answered by each model, side by side."""
    if not report.samples:
        return empty("Answers side by side", "No samples were kept.")
    names = list(dict.fromkeys(name for sample in report.samples for name in sample.answers))
    tint = colours([model.name for model in report.models] + names)
    heads = "".join(f'<th><span class="{tint[n]}"><span class="swatch"></span></span>{escaped(n)}</th>' for n in names)
    with_right = any(sample.right for sample in report.samples)
    rows = "".join(sample_row(sample, names, with_right) for sample in report.samples)
    lead = f"The same {len(report.samples)} held-out prompts for every model. Shown as text, as written."
    head = f"<th>prompt</th>{'<th>right answer</th>' if with_right else ''}{heads}"
    table = f'<table class="samples"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f'{heading("Answers side by side", lead)}<div class="scroll">{table}</div>'


def sample_row(sample: Sample, names: Sequence[str], with_right: bool) -> str:
    right = f'<td class="said" dir="auto">{foreign(sample.right)}</td>' if with_right else ""
    kind = f'<span class="kind">{escaped(sample.kind)}</span>' if sample.kind else ""
    cells = "".join(f"<td>{answer_cell(sample.answers.get(name))}</td>" for name in names)
    prompt = f'<span class="said" dir="auto">{foreign(sample.prompt)}</span>{kind}'
    return f'<tr><td class="prompt">{prompt}</td>{right}{cells}</tr>'


def answer_cell(given: Answer | None) -> str:
    if given is None:
        return '<span class="nothing">not sampled</span>'
    said = foreign(given.text) if given.text else '<span class="nothing">(empty)</span>'
    scores = "".join(
        f'<span class="score {grade(value)}">{escaped(axis)} {compact(round(value, 2))}</span>'
        for axis, value in given.scores.items()
    )
    return f'<div class="said" dir="auto">{said}</div><div class="scores">{scores}</div>'


def grade(score: float) -> str:
    return "high" if score >= 0.75 else "low" if score < 0.4 else "middle"
