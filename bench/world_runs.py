"""Trainings on the embedded world, as curves: what the truth thinks of the answers, over rollouts and seconds.

Every look samples answers to the same held-out prompts; what looks cost is not counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from bench.harness import ROOT, peak_memory, python
from instruct.world import World, judge
from models.scorer import AXES
from train.artifact import read_artifact

PIPELINE = OmegaConf.load(ROOT / "conf/pipeline.yaml")
LOOKS = {"rl.evaluate_every": 1, "rl.evaluation_prompts": 512, "trainer.save_every": 0, "trainer.log_every": 1}
QUICK = {"rl.rollouts": 2, "rl.prompts": 16, "rl.evaluation_prompts": 16, "trainer.batch_size": 8}


class Look(NamedTuple):
    """A policy between two rollouts. proxy and kl: of the learned reward and the reference, where they are known."""

    iteration: int
    seconds: float  # of training until here
    gold: float  # mean of helpful, honest and harmless
    proxy: float | None = None
    kl: float | None = None
    axes: Mapping[str, float] = {}  # gold of each


def recipe() -> dict[str, Any]:
    """Options of stages.ppo in the embedded pipeline, less its paths."""
    sections = ((name, PIPELINE.ppo[name]) for name in ("rl", "trainer"))
    return {f"{name}.{key}": value for name, section in sections for key, value in flat(section)}


def flat(node: DictConfig) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, DictConfig):
            yield from ((f"{key}.{below}", x) for below, x in flat(value))
        else:
            yield str(key), value


def world_of(base: Path) -> int:
    """The seed of the world that the artefacts of a chain were made of."""
    return int(read_artifact(base / "sft", verify=False).manifest["config"]["data.seed"])


def trained(base: Path, folder: Path, seed: int, options: dict[str, Any], threads: int) -> list[Look]:
    """The looks of a run of stages.ppo with these options beside the recipe's."""
    world = world_of(base)
    models = {"model.path": base / "sft", "reward.path": base / "reward"}
    given = {**models, **recipe(), **LOOKS, **options, "seed": seed, "data.seed": world, "ptx.seed": world}
    given |= {"name": "run", "outputs": folder, "tracking": "none", "resume": "restart"}
    written = [f"{key}={'null' if value is None else value}" for key, value in given.items()]
    sources = ["data=world_prompts", "data@ptx=world_text", f"ptx.limit={PIPELINE.ppo.ptx.limit}"]
    peak_memory(python("stages.ppo", *sources, *written), threads)
    seconds = [0.0]
    for line in map(json.loads, (folder / "run/ppo/metrics.jsonl").read_text().splitlines()):
        if "objective/kl" in line:
            seconds.append(seconds[-1] + sum(x for key, x in line.items() if key.startswith("seconds/")))
    return looks(folder / "run/ppo/looks", world, dict(enumerate(seconds)))


def looks(folder: Path, world: int, seconds: dict[int, float]) -> list[Look]:
    """What was seen, with the world's judgement."""
    files = sorted(folder.glob("*.json"), key=lambda file: int(file.stem))
    seen = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    tasks = {task.prompt: task for task in World(world).tasks("dev", 32)}
    found = []
    for look in seen:
        judged = [judge(tasks[a["prompt"]], a["text"], a["ended"]) for a in look["answers"]]
        axes = {axis: mean(column) for axis, column in zip(AXES, zip(*judged, strict=True), strict=True)}
        number = int(look["iteration"])
        found.append(Look(number, seconds[number], mean(axes.values()), look.get("proxy"), look.get("kl"), axes))
    return found


def smoothed(run: Sequence[Look]) -> list[Look]:
    """Gold averaged with that of the looks before and after: one of 512 prompts is off by more than a point."""
    near = [run[max(0, i - 1) : i + 2] for i in range(len(run))]
    return [look._replace(gold=mean(n.gold for n in around)) for look, around in zip(run, near, strict=True)]


def averaged(runs: Sequence[Sequence[Look]]) -> list[Look]:
    """The mean of several runs after each rollout that all of them had."""
    whole = ([look[: Look._fields.index("axes")] for look in at] for at in zip(*runs, strict=False))
    return [Look(*(mean_of(column) for column in zip(*at, strict=True))) for at in whole]


def mean_of(column: Sequence[float | None]) -> Any:
    known = [value for value in column if value is not None]
    return mean(known) if known else None
