"""Every algorithm of stages.ppo on the embedded world: python -m bench.algorithms --base outputs/demo

From the same sft and reward artefacts, with the recipe of the embedded pipeline and as many responses a rollout; the
truth judges answers to the same held-out prompts, sampled after every rollout. Writes <outputs>/algorithms.json, and
with --docs docs the table of docs/algorithms.md and the figure docs/algorithms.svg.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from bench.curves import Curve, Panel, curves
from bench.harness import machine, write
from bench.pages import put
from bench.world_runs import QUICK, Look, averaged, recipe, trained
from rl.config import RLConfig

SAMPLES = 8  # responses of a prompt where they are compared with each other
GROUPS = ("grpo", "rloo")
ALGORITHMS = {"ppo": "c-ppo", "grpo": "c-dpo", "rloo": "c-sft", "reinforce_pp": "c-base"}
MEASURES: dict[str, Callable[[Look], float | None]] = {
    "gold": lambda look: look.gold,
    "proxy": lambda look: look.proxy,
    "KL": lambda look: look.kl,
}
Found = dict[str, list[list[Look]]]
"""Of each algorithm, the looks of every seed."""


def main() -> None:
    given = parsed()
    about, found = machine(given.threads), {name: [] for name in given.algorithms}
    for seed in given.seeds:
        for name, runs in found.items():
            folder = given.outputs / f"algorithms-{name}-{seed}"
            runs.append(trained(given.base, folder, seed, options(name, given.quick), given.threads))
            told = {one: [[look._asdict() for look in run] for run in of_one] for one, of_one in found.items()}
            write({"subject": "algorithms", "machine": about, "looks": told}, given.outputs / "algorithms.json")
    print(table(found))
    if given.docs:
        put(table(found), given.docs / "algorithms.md")
        (given.docs / "algorithms.svg").write_text(figure(found), encoding="utf-8")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="the folder of a chain, as outputs/demo")
    parser.add_argument("--algorithms", nargs="+", choices=list(ALGORITHMS), default=list(ALGORITHMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the training")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--outputs", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--docs", type=Path, help="the folder of algorithms.md, whose table and figure are renewed")
    parser.add_argument("--quick", action="store_true", help="two small rollouts: does it run?")
    return parser.parse_args()


def options(algorithm: str, quick: bool) -> dict[str, Any]:
    """Beside the recipe's. Where responses to one prompt are compared, as many responses go to fewer prompts."""
    changed = {"rl.algorithm": algorithm, **(QUICK if quick else {})}
    if algorithm in GROUPS:
        prompts = {"rl.prompts": RLConfig().prompts, **recipe(), **changed}["rl.prompts"]
        changed |= {"rl.samples": SAMPLES, "rl.prompts": prompts // SAMPLES}
    return changed


def table(found: Found) -> str:
    """Markdown: a row an algorithm, its end at every seed."""
    lines = ["| | gold before | gold after, by seed | mean | learned reward | KL, nats | seconds |", "|---" * 7 + "|"]
    for name, runs in found.items():
        ends = [run[-1] for run in runs]
        cells = [f"{mean(run[0].gold for run in runs):.3f}", " · ".join(f"{end.gold:.3f}" for end in ends)]
        cells += [f"{mean(end.gold for end in ends):.3f}", f"{mean(end.proxy or 0.0 for end in ends):.2f}"]
        cells += [f"{mean(end.kl or 0.0 for end in ends):.2f}", f"{mean(end.seconds for end in ends):.0f}"]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(found: Found) -> str:
    """Gold, learned reward and KL over rollouts, means over seeds."""

    def curve(name: str, measure: Callable[[Look], float | None]) -> Curve:
        runs = [*found[name], averaged(found[name])]
        dots = [[(float(look.iteration), measure(look) or 0.0) for look in run] for run in runs]
        return Curve(name, ALGORITHMS[name], dots[-1], [dot for run in dots[:-1] for dot in run])

    titles = {"gold": "gold, sampled answers", "proxy": "learned reward", "KL": "KL to sft, nats"}
    panels = [Panel(titles[key], [curve(name, measure) for name in found]) for key, measure in MEASURES.items()]
    return curves("algorithms on the embedded world", "rollouts", panels)


if __name__ == "__main__":
    main()
