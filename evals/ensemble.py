"""The report's section of ensembles: several reward models against each, and whether they know when they are wrong."""

from __future__ import annotations

from collections.abc import Sequence

from evals.best_of import cell
from evals.markup import heading, legend
from evals.notation import escaped, signed
from evals.plots import Interval, interval_bars
from evals.results import EnsembleAxis

DOUBTS = {  # as stages.score names them
    "disagreement": "disagreement",
    "spread": "spread alone",
    "closeness": "closeness alone",
}


def ensemble_section(axes: Sequence[EnsembleAxis]) -> str:
    """Accuracy of the ensemble and of its members, and how well doubts find the pairs that it orders wrongly."""
    n = max(len(axis.members) for axis in axes)
    bars = [("ensemble", "c-sft", [interval(axis, None) for axis in axes])]
    bars += [(f"member {m + 1}", f"c-other{m % 4}", [interval(axis, m) for axis in axes]) for m in range(n)]
    chart = interval_bars("accuracy by axis", [a.axis for a in axes], bars, y_range=(0.0, 1.0), size=(1190, 240))
    lead = (
        "Share of held-out pairs ranked as their labels say. Below, the chance that a pair which the ensemble gets "
        "wrong is more doubtful than one it gets right (AUROC, 0.5 says nothing), by three doubts that need no label: "
        "the standard deviation of the members' margins against the size of their mean, that deviation alone, and the "
        "size of the mean alone."
    )
    tint = {name: colour for name, colour, _ in bars}
    rows = "".join(axis_row(axis) for axis in axes)
    heads = "".join(f"<th>{name}</th>" for name in ("accuracy", "gain over a member", *DOUBTS.values()))
    over = f'<tr class="over"><th colspan="3"></th><th class="span" colspan="{len(DOUBTS)}">finds errors</th></tr>'
    table = f'<table class="numbers"><thead>{over}<tr><th></th>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    return f'{heading("Ensemble", lead)}{legend(tint)}<figure>{chart}</figure><div class="scroll">{table}</div>'


def axis_row(axis: EnsembleAxis) -> str:
    gain = axis.gain
    changed = f"<b>{signed(gain.mean, 3)}</b><small>[{signed(gain.low, 3)}, {signed(gain.high, 3)}]</small>"
    tone = "better" if gain.above_zero else "worse" if gain.below_zero else ""
    doubts = "".join(cell(axis.error_auroc.get(name)) for name in DOUBTS)
    return (
        f'<tr><th scope="row">{escaped(axis.axis)}</th>{cell(axis.accuracy)}<td class="{tone}">{changed}</td>'
        f"{doubts}</tr>"
    )


def interval(axis: EnsembleAxis, member: int | None) -> Interval | None:
    """Accuracy of one member, or of all as one."""
    if member is not None and member >= len(axis.members):
        return None
    shown = axis.accuracy if member is None else axis.members[member]
    return Interval(shown.mean, shown.low, shown.high)
