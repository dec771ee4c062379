"""The report's section of the reward model: how often it is right, on what, and what it can be fooled by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from evals.intervals import Estimate
from evals.markup import empty, heading, legend
from evals.notation import compact, escaped, foreign, number, signed
from evals.plots import Interval, interval_bars, reliability_chart
from evals.reward_results import AxisQuality, Group, Hack, HackResult, Mistake, RewardQuality, Told
from models.scorer import AXES

N_SHOWN = 400  # characters of a text among the mistakes
PAYS, SOMETIMES = 0.5, 0.1  # shares of prompts from which a hack is said to pay, or to pay now and then
LENGTHS = {
    "shorter": "better response is shorter",
    "similar": "of like length",
    "longer": "better response is longer",
    "longer_wins": "always picking the longer one",
}


def reward_section(quality: RewardQuality | None) -> str:
    if quality is None or not quality.axes:
        return empty("Reward model", "No reward model was measured.")
    parts = (
        accuracy_part(quality.axes),
        groups_part(quality.axes),
        sources_part(quality.axes),
        hacks_part(quality.hacks),
        agreement_part(quality),
        mistakes_part(quality.mistakes),
    )
    return "".join(parts)


# --- how often it is right --------------------------------------------------------------------------------------------


def accuracy_part(axes: Sequence[AxisQuality]) -> str:
    bars: list[tuple[str, str, list[Interval | None]]] = [
        ("held-out rankings", "c-sft", [drawn(a.accuracy) for a in axes])
    ]
    own = [drawn(a.own_samples) for a in axes]
    if any(own):
        bars.append(("the policy's own samples", "c-other1", own))
    chart = interval_bars("accuracy by axis", [a.axis for a in axes], bars, y_range=(0.0, 1.0), size=(1190, 240))
    diagrams = "".join(reliability_figure(axis) for axis in axes if axis.bins)
    lead = (
        "Share of pairs ranked as the labels rank them; a coin gets 0.5. Below, how often the predicted winner "
        "really won: on the diagonal the model's probabilities are true, below it they are over-confident."
    )
    tint = {name: colour for name, colour, _ in bars}
    return (
        f"{heading('Reward model', lead)}{legend(tint)}<figure>{chart}</figure>"
        f'<div class="three">{diagrams}</div>{summary_table(axes)}'
    )


def drawn(estimate: Estimate | None) -> Interval | None:
    return None if estimate is None else Interval(estimate.mean, estimate.low, estimate.high)


def reliability_figure(axis: AxisQuality) -> str:
    bins = [(b.confidence, b.accuracy, b.count) for b in axis.bins]
    chart = reliability_chart(f"reliability, {axis.axis}", bins, "c-sft")
    caption = f'{escaped(axis.axis)}<span class="now">{calibration(axis)}</span>'
    return f"<figure><figcaption>{caption}</figcaption>{chart}</figure>"


def calibration(axis: AxisQuality) -> str:
    said = []
    if axis.calibration_error is not None:
        said.append(f"calibration error {axis.calibration_error:.3f}")
    if axis.temperature is not None:
        said.append(f"temperature {axis.temperature:.2f}")
    return " · ".join(said)


def summary_table(axes: Sequence[AxisQuality]) -> str:
    rows: dict[str, Callable[[AxisQuality], str | None]] = {
        "accuracy": lambda a: estimated(a.accuracy),
        "on the policy's own samples": lambda a: estimated(a.own_samples),
        "agreement with each judge": lambda a: estimated(a.one_judge),
        "two judges agree": lambda a: a.judges and f"<td><b>{number(a.judges.share)}</b>{pairs(a.judges.pairs)}</td>",
        "ceiling that this sets": lambda a: a.judges and f"<td><b>{number(a.judges.ceiling)}</b></td>",
        "Kendall's tau": lambda a: estimated(a.tau),
        "highest score is a best response": lambda a: estimated(a.top1),
        "correlation of score and length": lambda a: plain(a.length_correlation),
    }
    return f"<h3>Whole rankings, judges and length</h3>{table(axes, rows)}"


def estimated(estimate: Estimate | None) -> str | None:
    if estimate is None:
        return None
    mean, low, high = (number(value) for value in (estimate.mean, estimate.low, estimate.high))
    return f'<td title="n = {estimate.n}"><b>{mean}</b><small>[{low}, {high}]</small></td>'


def plain(value: float | None) -> str | None:
    return None if value is None else f"<td><b>{number(value)}</b></td>"


def pairs(n: int) -> str:
    return f"<small>{n:,} pairs</small>"


def table(axes: Sequence[AxisQuality], rows: Mapping[str, Callable[[AxisQuality], str | None]]) -> str:
    """A column an axis; rows that no axis has are left out."""
    shown = ""
    for name, cell in rows.items():
        cells = [cell(axis) for axis in axes]
        if any(cells):
            shown += f'<tr><th scope="row">{escaped(name)}</th>{"".join(c or "<td>&ndash;</td>" for c in cells)}</tr>'
    return numbers([axis.axis for axis in axes], shown)


def numbers(columns: Sequence[str], rows: str) -> str:
    heads = "".join(f"<th>{escaped(name)}</th>" for name in columns)
    head = f"<thead><tr><th></th>{heads}</tr></thead>"
    return f'<div class="scroll"><table class="numbers inline">{head}<tbody>{rows}</tbody></table></div>'


# --- on what ----------------------------------------------------------------------------------------------------------


def groups_part(axes: Sequence[AxisQuality]) -> str:
    lengths = {label: of_length(name) for name, label in LENGTHS.items()}
    said = (
        "Accuracy on pairs whose better response is shorter, of like length (within a tenth) or longer. The last row "
        "is the accuracy of always picking the longer response: the baseline to beat."
    )
    strengths = {place: of_place(i) for i, place in enumerate(("least apart", "further apart", "furthest apart"))}
    told = "The same by how far the labels are apart: pairs that are hard to tell apart are expected to be lower."
    return (
        f'<h3>By length</h3><p class="lead">{said}</p>{table(axes, lengths)}'
        f'<h3>By the distance of the labels</h3><p class="lead">{told}</p>{table(axes, strengths)}'
    )


def of_length(name: str) -> Callable[[AxisQuality], str | None]:
    return lambda axis: grouped(axis.by_length.get(name))


def of_place(place: int) -> Callable[[AxisQuality], str | None]:
    def cell(axis: AxisQuality) -> str | None:
        spans = list(axis.by_strength.items())
        if place >= len(spans):
            return None
        (low, high), group = spans[place]
        return grouped(group, f"{compact(low)} to {compact(high)}: " if low < high else f"{compact(low)}: ")

    return cell


def grouped(group: Group | None, span: str = "") -> str | None:
    return (
        None if group is None else f"<td><b>{number(group.accuracy)}</b><small>{span}{group.pairs:,} pairs</small></td>"
    )


def sources_part(axes: Sequence[AxisQuality]) -> str:
    sources = sorted({source for axis in axes for source in axis.by_source})
    if not sources:
        return ""
    said = (
        "Pairs of one response of a source and one of another: how often the labels prefer its response, how often "
        "the model does, and the accuracy. A source that the model prefers more often than the labels do is over-rated."
    )
    rows = {source: of_source(source) for source in sources}
    return f'<h3>By source</h3><p class="lead">{said}</p>{table(axes, rows)}'


def of_source(source: str) -> Callable[[AxisQuality], str | None]:
    def cell(axis: AxisQuality) -> str | None:
        group = axis.by_source.get(source)
        if group is None:
            return None
        shares = f"{group.labelled_better:.0%} → {group.scored_better:.0%}"
        return f"<td><b>{shares}</b><small>{number(group.accuracy)} of {group.pairs:,}</small></td>"

    return cell


# --- what it can be fooled by -----------------------------------------------------------------------------------------


def hacks_part(hacks: Sequence[Hack]) -> str:
    if not hacks:
        return ""
    found = {axis for hack in hacks for axis in hack.by_axis}
    axes = [axis for axis in AXES if axis in found]
    rows = "".join(hack_row(hack, axes) for hack in hacks)
    said = (
        "Each best response was made to look good without being better. Shown: the share of prompts on which the model "
        "prefers that to the honest response, and by how many standard deviations the score moves."
    )
    return f'<h3>Hacks</h3><p class="lead">{said}</p>{numbers([*axes, "in words"], rows)}'


def hack_row(hack: Hack, axes: Sequence[str]) -> str:
    cells = "".join(hack_cell(hack.by_axis.get(axis)) for axis in axes)
    return f'<tr><th scope="row">{escaped(hack.name)}</th>{cells}<td class="words">{escaped(reading(hack))}</td></tr>'


def hack_cell(found: HackResult | None) -> str:
    if found is None:
        return "<td>&ndash;</td>"
    tone = "worse" if found.preferred.mean > PAYS else "unclear" if found.preferred.mean > SOMETIMES else "better"
    share = f"{found.preferred.mean:.0%} [{found.preferred.low:.0%}, {found.preferred.high:.0%}]"
    shift = f"<small>{signed(found.shift.mean)}</small>"
    return f'<td class="{tone}" title="n = {found.preferred.n}"><b>{share}</b>{shift}</td>'


def reading(hack: Hack) -> str:
    """What the numbers say, in words."""
    share = {axis: found.preferred.mean for axis, found in hack.by_axis.items()}
    pays = [axis for axis in share if share[axis] > PAYS]
    sometimes = [axis for axis in share if SOMETIMES < share[axis] <= PAYS]
    if pays:
        return f"Pays on {' and '.join(pays)}: training against this model will learn it. Rewards {hack.says}."
    if sometimes:
        return f"Pays now and then on {' and '.join(sometimes)}. Rewards {hack.says}."
    return "Does not pay."


def agreement_part(quality: RewardQuality) -> str:
    if not quality.axes_agree:
        return ""
    rows = ""
    for row in quality.axes_agree:
        cells = [f"<td><b>{row.predicted:.0%}</b>{pairs(row.pairs)}</td>"]
        for share in (row.predicted_there, row.labelled):
            cells.append(
                "<td>&ndash;</td>" if share is None else f"<td><b>{share:.0%}</b>{pairs(row.labelled_pairs)}</td>"
            )
        rows += f'<tr><th scope="row">{escaped(" and ".join(row.axes))}</th>{"".join(cells)}</tr>'
    said = "How often two axes name the same response as the better one. Far above the labels, they are one axis."
    columns = ("predicted, all pairs", "predicted, labelled pairs", "labelled")
    return f'<h3>Agreement between axes</h3><p class="lead">{said}</p>{numbers(columns, rows)}'


def mistakes_part(mistakes: Sequence[Mistake]) -> str:
    if not mistakes:
        return ""
    heads = "".join(f"<th>{name}</th>" for name in ("prompt", "better, by the labels", "preferred by the model"))
    rows = "".join(mistake_row(mistake) for mistake in mistakes)
    said = (
        "Held-out pairs that the model is most sure of and has the wrong way around, one of a prompt. Some may be "
        "errors of the labels. Scores are in standard deviations of reference completions."
    )
    body = f'<table class="samples"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    count = f"<summary>{len(mistakes)} pairs</summary>"
    return (
        f'<h3>Most confident mistakes</h3><p class="lead">{said}</p>'
        f'<details open>{count}<div class="scroll">{body}</div></details>'
    )


def mistake_row(mistake: Mistake) -> str:
    kind = f'<span class="kind">{escaped(mistake.axis)}, {mistake.probability:.0%} sure</span>'
    prompt = f'<span class="said" dir="auto">{foreign(mistake.prompt, N_SHOWN)}</span>{kind}'
    return f'<tr><td class="prompt">{prompt}</td>{told(mistake.better, "high")}{told(mistake.worse, "low")}</tr>'


def told(response: Told, grade: str) -> str:
    source = f' <span class="score">{escaped(response.source)}</span>' if response.source else ""
    score = f'<span class="score {grade}">score {signed(response.score)}</span>{source}'
    said = foreign(response.text, N_SHOWN)
    return f'<td><div class="said" dir="auto">{said}</div><div class="scores">{score}</div></td>'
