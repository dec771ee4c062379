"""Who learns faster on the embedded world, by the wall clock: python -m bench.learning --base outputs/demo

PPO from the same sft and reward artefacts, by `python -m stages.ppo` with the recipe of the embedded pipeline and by
the last PPOTrainer of TRL, both without PTX: as many rollouts of as many prompts, epochs and minibatches, the same
rates, coefficients and penalty where TRL has them. The truth judges answers to the same held-out prompts, sampled
after every rollout. Where TRL's ends, and when ours is there, is read off curves whose points are averaged with their
neighbours. Writes <outputs>/learning.json and learning.svg.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.curves import Curve, Panel, curves
from bench.environment import LAST_WITH_PPO, trl_release, within
from bench.harness import machine, peak_memory, python
from bench.world_runs import LOOKS, QUICK, Look, averaged, looks, recipe, smoothed, trained, world_of
from rl.config import RLConfig

NOT_THERE = {"rl.ptx_coef": 0}  # TRL learns from no pretraining text beside the responses
SIDES = {"ours": "c-ppo", "TRL": "c-dpo"}


@dataclass(frozen=True)
class Finish:
    """How long each side took to what TRL's ends with."""

    gold: float  # that TRL's ends with
    theirs: float  # seconds
    ours: float | None  # seconds; None: never there


def main() -> None:
    given = parsed()
    environment = trl_release(LAST_WITH_PPO, given.environments or given.outputs)
    about, found = machine(given.threads), {side: [] for side in SIDES}
    options = {**NOT_THERE, **(QUICK if given.quick else {})}
    for seed in given.seeds:
        found["ours"].append(trained(given.base, given.outputs / f"learning-{seed}", seed, options, given.threads))
        found["TRL"].append(peer(environment, given, seed))
        write(given.outputs, about, found)
    print(table(found))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="the folder of a chain, as outputs/demo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of PPO")
    parser.add_argument("--rate", type=float, help="TRL's learning rate, where it is not to be ours")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--outputs", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--environments", type=Path, help="where TRL's other release is or will be; default: outputs")
    parser.add_argument("--quick", action="store_true", help="two small rollouts: does it run?")
    return parser.parse_args()


def peer(environment: Path, given: argparse.Namespace, seed: int) -> list[Look]:
    """TRL's looks."""
    standard = {"rl.prompts": RLConfig().prompts, "rl.epochs": RLConfig().epochs}
    ours = {**standard, **recipe(), **LOOKS, **(QUICK if given.quick else {})}
    world, folder = world_of(given.base), given.outputs / f"learning-{seed}" / "trl"
    options = {
        "world": world,
        "looks": ours["rl.evaluation_prompts"],
        "seed": seed,
        "bf16": False,
        "total_episodes": ours["rl.rollouts"] * ours["rl.prompts"],
        "per_device_train_batch_size": ours["rl.prompts"],
        "num_mini_batches": ours["rl.prompts"] // ours["trainer.batch_size"],
        "num_ppo_epochs": ours["rl.epochs"],
        "response_length": ours["rl.max_new_tokens"],
        "missing_eos_penalty": ours["rl.score.missing_end_penalty"],
        "learning_rate": given.rate or ours["trainer.learning_rate"],
        "kl_coef": ours["rl.kl.coef"],
        "temperature": 1.0,
    }
    shutil.rmtree(folder, ignore_errors=True)
    command = python("bench.trl_world", str(given.base), str(folder), json.dumps(options))
    peak_memory(within(environment, command), given.threads)
    seconds = json.loads((folder / "seconds.json").read_text())
    return looks(folder / "looks", world, dict(enumerate(seconds)))


def finish(ours: Sequence[Look], theirs: Sequence[Look]) -> Finish:
    """When ours was first where TRL's ended, both smoothed."""
    ours, theirs = smoothed(ours), smoothed(theirs)
    goal = theirs[-1].gold
    return Finish(goal, theirs[-1].seconds, next((look.seconds for look in ours if look.gold >= goal), None))


def finishes(found: dict[str, list[list[Look]]]) -> dict[str, Finish]:
    """Of every seed, and of the mean curves."""
    seeds = {f"seed {i}": finish(*pair) for i, pair in enumerate(zip(found["ours"], found["TRL"], strict=True))}
    return {**seeds, "mean": finish(averaged(found["ours"]), averaged(found["TRL"]))}


def table(found: dict[str, list[list[Look]]]) -> str:
    """Markdown: a row a seed, and one of the mean curves."""
    lines = ["| | gold before | where TRL ends | TRL, s | ours, s | ours to TRL | where ours ends | ours, s |"]
    lines += ["|---" * 8 + "|"]
    runs = [*found["ours"], averaged(found["ours"])]
    for run, (name, at) in zip(runs, finishes(found).items(), strict=True):
        there = ["never", "–"] if at.ours is None else [f"{at.ours:.1f}", f"{at.ours / at.theirs:.2f}"]
        cells = [f"{run[0].gold:.3f}", f"{at.gold:.3f}", f"{at.theirs:.1f}", *there]
        lines.append(f"| {name} | {' | '.join(cells)} | {run[-1].gold:.3f} | {run[-1].seconds:.1f} |")
    return "\n".join(lines)


def figure(found: dict[str, list[list[Look]]]) -> str:
    """Gold over seconds, means over seeds."""
    lines = [
        Curve(
            side,
            SIDES[side],
            [(look.seconds, look.gold) for look in averaged(runs)],
            [(look.seconds, look.gold) for run in runs for look in run],
        )
        for side, runs in found.items()
    ]
    return curves("PPO on the embedded world", "seconds of training", [Panel("gold, sampled answers", lines)])


def write(outputs: Path, about: dict[str, Any], found: dict[str, list[list[Look]]]) -> None:
    outputs.mkdir(parents=True, exist_ok=True)
    told = {side: [[look._asdict() for look in run] for run in runs] for side, runs in found.items()}
    reached = {name: vars(at) for name, at in finishes(found).items()}
    text = json.dumps({"subject": "learning", "machine": about, "looks": told, "reached": reached}, indent=2)
    (outputs / "learning.json").write_text(text + "\n", encoding="utf-8")
    (outputs / "learning.svg").write_text(figure(found), encoding="utf-8")


if __name__ == "__main__":
    main()
