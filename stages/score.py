"""Scores of a file's responses by a reward model, or by several read as one.

python -m stages.score name=x models=[outputs/x/reward] data=messages data.path=chats.jsonl
python -m stages.score name=x models=[outputs/a/reward,outputs/b/reward] combine=worst data=kwise data.path=held.jsonl

A line a response in outputs/<name>/score/scores.jsonl: normalised scores of each axis, and their weighted mean.
Rankings are compared with their labels, too: how often the scores order a pair rightly and, of several models, whether
their disagreement tells where they are wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from evals.discrimination import auroc
from evals.intervals import bootstrap_mean, by_prompt, paired_difference
from models.errors import ConfigError, NumericsError
from models.layout import LayoutConfig
from models.options import RUNTIME
from models.scorer import AXES
from reward.ensemble import EnsembleConfig, RewardEnsemble
from reward.margins import PairMargins, pair_margins
from stages.reward_models import load_ensemble
from stages.scored_rows import ScoredData, ScoredRow, read_scored
from train.artifact import Artifact
from train.config import StageConfig
from train.entry import start
from train.faults import fault_point
from train.growing import GrowingLines
from train.processes import world_size
from train.run import Run


@dataclass(kw_only=True)
class ScoreStage(EnsembleConfig, StageConfig):
    """conf/score.yaml"""

    data: ScoredData
    role: str = field(default="score", metadata=RUNTIME)  # its folder
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    chunk: int = 64  # rows that are scored, and written, at a time

    def __post_init__(self) -> None:
        StageConfig.__post_init__(self)
        EnsembleConfig.__post_init__(self)
        if not self.models:
            raise ConfigError("models: name at least one reward model, as in models=[outputs/mine/reward]")
        if self.chunk < 1:
            raise ConfigError(f"chunk={self.chunk}: expected at least 1")
        if self.layout.long_prompt == "drop":
            raise ConfigError("layout.long_prompt=drop: every row is scored; what is too long is cut and marked so")
        if world_size() > 1:
            raise ConfigError("score runs in one process; give each process a part of the file and a name= of its own")


def run(cfg: ScoreStage) -> Artifact:
    """Read, score and write chunk by chunk, compare with the labels where there are any, and seal."""
    with Run(cfg, stage=cfg.role) as run:
        if run.sealed:
            return run.sealed
        rows, readings = read_scored(cfg.data)
        run.say("; ".join([*map(str, readings), f"{len(rows)} to score"]))
        judges = load_ensemble(cfg, cfg.layout)
        chunks = [rows[first : first + cfg.chunk] for first in range(0, len(rows), cfg.chunk)]
        lines = GrowingLines(run.folder / "scores.jsonl")
        done = lines.go_on([sum(len(row.replies.texts) for row in chunk) for chunk in chunks])
        if done:
            run.say(f"going on after {done * cfg.chunk} rows")
        for i, chunk in enumerate(chunks[done:], start=done + 1):
            lines.add(scored_lines(judges, chunk))
            fault_point(f"{cfg.role}:chunk:{i}")
            if i % max(1, len(chunks) // 10) == 0:
                run.say(f"{min(i * cfg.chunk, len(rows))} of {len(rows)} rows scored")
        metrics = measured(judges, rows, lines.finish())
        run.say(summary(metrics))
        facts = {"models": cfg.models, "axes": list(judges.axes), "readings": [r.counts() for r in readings]}
        return run.seal("scores", metrics=metrics, facts=facts)


def scored_lines(judges: RewardEnsemble, rows: Sequence[ScoredRow]) -> list[dict[str, Any]]:
    """A line for each response. Several models: also their standard deviation, and what each of them says."""
    asked = [row.replies for row in rows]
    each = judges.each(asked)
    whose = [(row, k) for row in rows for k in range(len(row.replies.texts))]
    for (row, k), scores in zip(whose, each.transpose(0, 1), strict=True):
        if not scores.isfinite().all():
            raise NumericsError(
                f"{row.origin}: response {k}: the reward model gave {scores.tolist()}; check its weights"
            )
    combined, cut = judges.combined(each), judges.cuts(asked)
    overall, spread = judges.overall(combined), each.std(0, unbiased=False)
    spread_overall = judges.overall(each).std(0, unbiased=False)
    lines = []
    for r, (row, k) in enumerate(whose):
        line: dict[str, Any] = {"id": row.id, "path": row.origin.path, "row": row.origin.line, "response": k}
        line |= {"scores": named(judges, combined[r]), "overall": float(overall[r])}
        if len(each) > 1:
            line |= {"std": {**named(judges, spread[r]), "overall": float(spread_overall[r])}}
            line |= {"members": [named(judges, scores[r]) for scores in each]}
        lines.append(line | ({"cut": True} if cut[r] else {}))
    return lines


def named(judges: RewardEnsemble, scores: Tensor) -> dict[str, float]:
    return dict(zip(judges.axes, scores.tolist(), strict=True))


def measured(judges: RewardEnsemble, rows: Sequence[ScoredRow], lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts, mean scores and, where rows have labels, how the scores compare with them."""
    members = [line.get("members", [line["scores"]]) for line in lines]
    each = torch.tensor([[[own[axis] for axis in judges.axes] for own in m] for m in members]).transpose(0, 1)
    combined = judges.combined(each)
    found: dict[str, Any] = {"rows": len(rows), "responses": len(lines), "cut": sum("cut" in line for line in lines)}
    for name, scores in (*zip(judges.axes, combined.T, strict=True), ("overall", judges.overall(combined))):
        found.setdefault("scores", {})[name] = {"mean": float(scores.mean()), "std": float(scores.std(unbiased=False))}
    labels = [row.labels for row in rows if row.labels is not None]
    if labels:
        margins = pair_margins(on_axes(judges, each), on_axes(judges, combined), labels)
        found["rankings"] = {axis: compared(own) for axis, own in margins.items()}
    return found


def on_axes(judges: RewardEnsemble, scores: Tensor) -> Tensor:
    """Scores on the axes of labels, (..., 3); the overall score stands for an axis that the models do not have."""
    named = dict(zip(judges.axes, scores.unbind(-1), strict=True))
    return torch.stack([named.get(axis, judges.overall(scores)) for axis in AXES], dim=-1)


def compared(margins: PairMargins) -> dict[str, Any]:
    """Accuracy together and of each member, and whether disagreement tells the wrong pairs from the right ones."""
    row = margins.row.tolist()
    right = by_prompt(correct(margins.combined), row)
    of_members = [by_prompt(correct(own), row) for own in margins.members]
    found: dict[str, Any] = {"pairs": len(row), "accuracy": bootstrap_mean(right).as_dict()}
    if len(of_members) > 1:
        typical = torch.tensor(of_members).mean(0)
        found["members"] = [bootstrap_mean(own).as_dict() for own in of_members]
        found["gain"] = paired_difference(right, typical).as_dict()
        areas = {name: auroc(doubt, margins.wrong, margins.row) for name, doubt in margins.doubts.items()}
        found["error_auroc"] = {name: area.as_dict() for name, area in areas.items() if area}
    return found


def correct(margin: Tensor) -> list[float]:
    """1 for each pair in the right order, one half for a tie."""
    return (0.5 + 0.5 * margin.sign()).tolist()


def summary(metrics: dict[str, Any]) -> str:
    """One line for the person who waits."""
    said = [f"{metrics['responses']} responses of {metrics['rows']} rows scored"]
    said += [f"{metrics['cut']} were too long and lost a part"] if metrics["cut"] else []
    said += [f"{name} {scores['mean']:.3f} ± {scores['std']:.3f}" for name, scores in metrics["scores"].items()]
    for axis, found in metrics.get("rankings", {}).items():
        accuracy = found["accuracy"]
        said.append(f"{axis} accuracy {accuracy['mean']:.3f} [{accuracy['low']:.3f}, {accuracy['high']:.3f}]")
        if area := found.get("error_auroc", {}).get("disagreement"):
            said[-1] += f", disagreement finds its errors with AUROC {area['mean']:.3f}"
    return "; ".join(said)


if __name__ == "__main__":
    start("score", ScoreStage, run)
