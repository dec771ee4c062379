"""What a stage of reinforcement learning left beside its model, as the report shows it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evals.results import Alert
from evals.rl_results import Look, RLCourse, Then, Told
from train.artifact import Artifact

JUDGES = ("proxy", "referee", "gold")
N_SAMPLES = 16
SEVERE = ("over-optimisation", "kl", "one answer")  # what is wrong with the policy itself, not with its training


def is_rl(artifact: Artifact) -> bool:
    return artifact.manifest["stage"] == "ppo"


def rl_course(artifact: Artifact) -> RLCourse:
    """The course of a sealed stage."""
    looks = numbered(artifact.folder / "looks")
    kept = artifact.manifest["metrics"]["kept"]
    curves, seconds = rollout_curves(artifact.folder / "metrics.jsonl")
    rollouts = numbered(artifact.folder / "rollouts")
    later = rollouts[1:] or rollouts  # the first is sampled from the start itself, at a KL of 0
    return RLCourse(
        stage=artifact.folder.name,
        curves=curves,
        looks=tuple(look_of(look, kept) for look in looks),
        kl={r["iteration"]: r["kl"] for r in (later[0], later[len(later) // 2], later[-1])} if later else {},
        seconds=seconds,
        samples=tuple(samples(looks[0], looks[-1])) if looks else (),
    )


def rollout_curves(path: Path) -> tuple[dict[str, list[tuple[float, float]]], dict[str, float]]:
    """Of the lines of rollouts: values by the rollout's number, and summed seconds by part."""
    curves: dict[str, list[tuple[float, float]]] = {}
    seconds: dict[str, float] = {}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for number, line in enumerate((line for line in lines if "objective/kl" in line), start=1):
        for name, value in {**line, "unfinished": 1 - line["response/ended"]}.items():
            part = name.removeprefix("seconds/")
            if part != name:
                seconds[part] = seconds.get(part, 0.0) + value
            else:
                curves.setdefault(name, []).append((number, value))
    return curves, seconds


def look_of(look: Mapping[str, Any], kept: Mapping[str, float] | None) -> Look:
    scores = {judge: look[judge] for judge in JUDGES if judge in look}
    errors = {judge: look[f"{judge}_error"] for judge in scores}
    at = int(look["iteration"])
    return Look(at, look["kl"], scores, errors, kept is not None and kept["iteration"] == at)


def samples(first: Mapping[str, Any], last: Mapping[str, Any]) -> Iterator[Then]:
    """Prompts from all over the list, for neighbours are of a kind."""
    both = list(zip(first["answers"], last["answers"], strict=True))
    for before, after in both[:: max(1, len(both) // N_SAMPLES)][:N_SAMPLES]:
        yield Then(before["prompt"], Told(before["text"], before["scores"]), Told(after["text"], after["scores"]))


def rl_alerts(artifact: Artifact) -> Iterator[Alert]:
    """What worried while it ran, and what nobody could see."""
    name, metrics = artifact.folder.name, artifact.manifest["metrics"]
    for alert in metrics["alerts"]:
        yield Alert(name, f"after rollout {alert['iteration']}: {alert['text']}", severe=alert["name"] in SEVERE)
    if not metrics["looks"]:
        yield Alert(name, "no prompts were held out: nothing tells whether the policy exploits its reward")


def numbered(folder: Path) -> list[dict[str, Any]]:
    """The records of a folder in the order of their numbers."""
    files = sorted(folder.glob("*.json"), key=lambda path: int(path.stem))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]
