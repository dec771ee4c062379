"""What a sealed reward model says of itself, as the report shows it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from evals.intervals import Estimate
from evals.reward_results import (
    AxesAgree,
    AxisQuality,
    Group,
    Hack,
    HackResult,
    JudgesAgree,
    Mistake,
    ReliabilityBin,
    RewardQuality,
    SourceGroup,
    Told,
)
from models.scorer import AXES
from reward.hacks import HACKS
from train.artifact import Artifact


def reward_quality(reward: Artifact) -> RewardQuality:
    """Read from the manifest and the file of mistakes beside it."""
    metrics = reward.manifest["metrics"]
    held_out, judges = metrics.get("held_out", {}), reward.manifest["facts"].get("agreement", {})
    return RewardQuality(
        axes=tuple(axis_quality(axis, held_out[axis], judges.get(axis)) for axis in AXES if axis in held_out),
        hacks=tuple(hacks(metrics.get("hacks", {}))),
        axes_agree=tuple(AxesAgree(**{**row, "axes": tuple(row["axes"])}) for row in metrics.get("axes_agree", ())),
        mistakes=tuple(mistakes(reward)),
    )


def axis_quality(axis: str, found: Mapping[str, Any], judges: Mapping[str, Any] | None) -> AxisQuality:
    estimates = {name: Estimate(**found[name]) for name in ("own_samples", "one_judge", "tau", "top1") if name in found}
    return AxisQuality(
        axis,
        Estimate(**found["accuracy"]),
        **estimates,
        judges=JudgesAgree(**judges) if judges else None,
        calibration_error=found.get("calibration_error"),
        temperature=found.get("temperature"),
        bins=tuple(ReliabilityBin(b["confidence"], b["accuracy"], int(b["count"])) for b in found.get("bins", ())),
        length_correlation=found.get("length_correlation"),
        by_length={name: Group(**group) for name, group in found.get("by_length", {}).items()},
        by_strength={(g["low"], g["high"]): Group(g["accuracy"], g["pairs"]) for g in found.get("by_strength", ())},
        by_source={name: SourceGroup(**group) for name, group in found.get("by_source", {}).items()},
    )


def hacks(found: Mapping[str, Any]) -> Iterator[Hack]:
    for name, hack in HACKS.items():
        by_axis = {
            axis: HackResult(Estimate(**of[name]["preferred"]), Estimate(**of[name]["shift"]))
            for axis, of in found.items()
            if name in of
        }
        if by_axis:
            yield Hack(name, hack.says, by_axis)


def mistakes(reward: Artifact) -> Iterator[Mistake]:
    path = reward.folder / "mistakes.jsonl"
    for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else ():
        if line:
            row = json.loads(line)
            turns = row["prompt"]
            said = turns[0]["content"] if len(turns) == 1 else "\n".join(f"{t['role']}: {t['content']}" for t in turns)
            better, worse = Told(**row["better"]), Told(**row["worse"])
            yield Mistake(row["axis"], said, better, worse, row["probability"])
