"""What label noise costs a reward model: held-out accuracy and calibration error at 0 to 30 % of turned labels.

python -m bench.noise --model outputs/demo/sft                  three seeds, 800 rankings each
python -m bench.noise --model outputs/demo/sft --docs docs      the table and the curve into docs/

The rankings are those of the embedded world, without noise; held-out ones stay so. At a noise of p the order of a
training ranking is turned around on an axis with probability p, which turns that share of its strict pairs and ties
none. Every level and seed is a run of stages.reward with the recipe of the embedded pipeline.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean

from bench.curves import Curve, Panel, curves
from models.scorer import AXES
from reward.rankings import AxisScores, Ranking, write_rankings
from reward.readers import RankingData, read_rankings

OUTPUTS = Path("outputs/bench/noise")
RECIPE = {"learning_rate": 1e-3, "batch_size": 16, "warmup_steps": 20, "final_rate": 0.03, "weight_decay": 0.1}
RECIPE |= {"beta2": 0.98, "epochs": 2}
SAMPLING = {"held_out": 300, "variants": 6, "noise": 0.0}
MEASURES = {
    "accuracy": "held-out accuracy",
    "calibration_error_before": "calibration error, as trained",
    "calibration_error": "calibration error, after temperature",
}
COLOURS = dict(zip(AXES, ("c-sft", "c-ppo", "c-dpo"), strict=True))

Found = dict[float, list[dict[str, dict[str, float]]]]
"""Of each level, for each seed: measures by axis."""


def main() -> None:
    arguments = parsed()
    rankings, held_out = material(arguments)
    found: Found = {
        level: [measured(level, seed, rankings, held_out, arguments) for seed in arguments.seeds]
        for level in arguments.levels
    }
    arguments.outputs.with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(table(found))
    if arguments.docs:
        page = (arguments.docs / "reward_noise.md").read_text(encoding="utf-8").split("\n\n")
        tables = [i for i, block in enumerate(page) if block.startswith("| noise |")]
        page[tables[0]] = table(found)
        (arguments.docs / "reward_noise.md").write_text("\n\n".join(page), encoding="utf-8")
        (arguments.docs / "reward_noise.svg").write_text(figure(found), encoding="utf-8")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a stages.sft artefact of the embedded world")
    parser.add_argument("--levels", type=float, nargs="+", default=[0.0, 0.1, 0.2, 0.3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of noise, head and order of rows")
    parser.add_argument("--prompts", type=int, default=800, help="rankings that are trained on")
    parser.add_argument("--outputs", type=Path, default=OUTPUTS)
    parser.add_argument("--docs", type=Path, help="the folder of reward_noise.md, whose table and curve are renewed")
    parser.add_argument("--quick", action="store_true", help="two steps of each run: does it work?")
    return parser.parse_args()


def material(arguments: argparse.Namespace) -> tuple[list[Ranking], str]:
    """Rankings without noise, and the file of the held-out ones: what one step of stages.reward leaves."""
    n = {"prompts": arguments.prompts, **SAMPLING}
    sampling = [f"sampling.{name}={value}" for name, value in ({**n, "held_out": 16} if arguments.quick else n).items()]
    place = [f"name={arguments.outputs.name}-material", f"outputs={arguments.outputs.parent}"]
    stage(f"model.path={arguments.model}", "data=world_rankings", *place, *sampling, "trainer.max_steps=1")
    folder = arguments.outputs.parent / f"{arguments.outputs.name}-material" / "reward"
    source = RankingData(path=str(folder / "rankings.jsonl"), format="kwise", eval_fraction=0.0)
    return read_rankings(source).train, str(folder / "held_out.jsonl")


def measured(level: float, seed: int, clean: list[Ranking], held_out: str, arguments: argparse.Namespace) -> dict:
    """Train on labels of this noise and read what the stage measured on each axis."""
    name = f"{arguments.outputs.name}-{round(100 * level)}-{seed}"
    arguments.outputs.mkdir(parents=True, exist_ok=True)
    path = arguments.outputs / f"{name}.jsonl"
    rng = random.Random(seed)
    write_rankings(path, [turned(ranking, level, rng) for ranking in clean])
    data = ["data=kwise", f"data.path={path}", f"data.eval_path={held_out}", "data.on_overlap=drop"]
    recipe = {**RECIPE, "max_steps": 2} if arguments.quick else RECIPE
    options = [f"trainer.{key}={value}" for key, value in recipe.items()]
    place = [f"name={name}", f"outputs={arguments.outputs.parent}", f"seed={seed}", "data.seed=0"]
    stage(f"model.path={arguments.model}", "adapter=freeze", "loss.center=0.005", *data, *place, *options)
    manifest = json.loads((arguments.outputs.parent / name / "reward/manifest.json").read_text(encoding="utf-8"))
    held = manifest["metrics"]["held_out"]
    return {
        axis: {"accuracy": held[axis]["accuracy"]["mean"], **{m: held[axis][m] for m in MEASURES if m != "accuracy"}}
        for axis in AXES
    }


def turned(ranking: Ranking, noise: float, rng: random.Random) -> Ranking:
    """The ranking with its order turned around on each axis apart, with probability `noise`."""
    axes = [around(axis) if rng.random() < noise else axis for axis in zip(*ranking.scores, strict=True)]
    scores: tuple[AxisScores, ...] = tuple(zip(*axes, strict=True))
    return replace(ranking, scores=scores)


def around(scores: tuple[float | None, ...]) -> tuple[float | None, ...]:
    """The same numbers with the best as the worst."""
    known = [score for score in scores if score is not None]
    return tuple(None if score is None else max(known) + min(known) - score for score in scores)


def table(found: Found) -> str:
    """Markdown: a row a level and measure, a column an axis, every seed."""
    lines = [f"| noise | | {' | '.join(AXES)} |", f"|---|---|{'---|' * len(AXES)}"]
    for level, runs in found.items():
        for measure, title in MEASURES.items():
            cells = [" · ".join(f"{run[axis][measure]:.3f}" for run in runs) for axis in AXES]
            lines.append(f"| {level:.0%} | {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(found: Found) -> str:
    """Accuracy and calibration error by noise, means over seeds."""

    def curve(axis: str, measure: str, *, dashed: bool = False) -> Curve:
        points = [(100 * level, mean(run[axis][measure] for run in runs)) for level, runs in found.items()]
        seeds = [(100 * level, run[axis][measure]) for level, runs in found.items() for run in runs]
        return Curve("" if dashed else axis, COLOURS[axis], points, seeds, dashed)

    accuracy = Panel("held-out accuracy", [curve(axis, "accuracy") for axis in AXES])
    after = [curve(axis, "calibration_error") for axis in AXES]
    before = [curve(axis, "calibration_error_before", dashed=True) for axis in AXES]
    calibration = Panel("calibration error (dashed: before temperature)", [*after, *before])
    return curves("reward model by label noise", "label noise of the training rankings, %", [accuracy, calibration])


def stage(*options: str) -> None:
    """Run stages.reward as a person types it; what is sealed already is not made again."""
    subprocess.run([sys.executable, "-m", "stages.reward", *options, "tracking=none"], check=True)


if __name__ == "__main__":
    main()
