"""Over-optimisation on the embedded world, and what holds it: python -m bench.overoptimisation --base outputs/demo

The learned reward and the truth against the square root of KL, from one SFT model, without any pull towards it: against
a reward model of many prompts, against one of few, against three of few read as one, and with two ways to stop in time.
Writes <outputs>/overoptimisation.json, and with --docs docs the table of docs/overoptimisation.md and its figure.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from bench.curves import Curve, Panel, curves
from bench.harness import machine, peak_memory, python, write
from bench.pages import put
from bench.world_runs import PIPELINE, QUICK, flat, trained, world_of

N_WEAK = 3  # reward models of few prompts
UNCONTAINED = {"rl.kl.coef": 0.0, "rl.kl.adaptive": "false", "rl.kl.budget": None, "rl.ptx_coef": 0.0}
UNCONTAINED |= {"rl.score.clip": None, "trainer.learning_rate": 3e-4}
UNCONTAINED |= {"rl.evaluate_every": 2, "rl.evaluation_prompts": 256}
COLOURS = {"no brake": "c-ppo", "KL budget": "c-dpo", "early stop": "c-sft", "weak": "c-other2", "ensemble": "c-other0"}


class Run(NamedTuple):
    """The looks of a run, oldest first, and the rollout whose policy was kept."""

    looks: list[dict[str, float]]
    kept: int

    @property
    def best(self) -> dict[str, float]:
        return next(look for look in self.looks if look["iteration"] == self.kept)


def main() -> None:
    given = parsed()
    about = machine(1)
    with ThreadPoolExecutor(given.jobs) as pool:
        weak = list(pool.map(lambda seed: weak_reward_model(given, seed), range(N_WEAK)))
        options = settings(given.base, weak)
        runs = dict(zip(options, pool.map(lambda name: run(given, name, options[name]), options), strict=True))
    told = {name: found._asdict() for name, found in runs.items()}
    write({"subject": "overoptimisation", "machine": about, "runs": told}, given.outputs / "overoptimisation.json")
    print(table(runs))
    if given.docs:
        put(table(runs), given.docs / "overoptimisation.md")
        (given.docs / "overoptimisation.svg").write_text(figure(runs), encoding="utf-8")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="a sealed chain of the embedded world: outputs/demo")
    parser.add_argument("--prompts", type=int, default=500, help="whose rankings a weak reward model learns from")
    parser.add_argument("--rollouts", type=int, default=40, help="at most, of each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, each on a core of its own")
    parser.add_argument("--outputs", type=Path, default=Path("outputs/bench"))
    parser.add_argument(
        "--docs", type=Path, help="the folder of overoptimisation.md, whose table and figure are renewed"
    )
    parser.add_argument("--quick", action="store_true", help="two rollouts of each run: does it work?")
    return parser.parse_args()


def settings(base: Path, weak: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Options of each run."""
    return {
        "no brake": UNCONTAINED,
        "KL budget": {**UNCONTAINED, "rl.kl.budget": 0.75},
        "early stop": {**UNCONTAINED, "rl.patience": 3},
        "weak": {**UNCONTAINED, "reward.path": weak[0]},
        "ensemble": {
            **UNCONTAINED,
            "reward.path": None,
            "reward.models": f"[{','.join(map(str, weak))}]",
            "reward.combine": "lower_bound",
        },
    }


def weak_reward_model(given: argparse.Namespace, seed: int) -> Path:
    """A reward model of the embedded recipe from the rankings of a few prompts."""
    recipe = PIPELINE.reward
    options = {f"{name}.{key}": value for name in ("loss", "trainer", "sampling") for key, value in flat(recipe[name])}
    options |= {"sampling.prompts": given.prompts, "sampling.held_out": 100, "seed": 100 + seed, "tracking": "none"}
    options |= {"name": f"overoptimisation-weak-{seed}", "outputs": given.outputs, "resume": "restart"}
    options |= {"model.path": given.base / "sft", "data.seed": world_of(given.base), "adapter": "freeze"}
    options |= {"sampling.prompts": 16, "trainer.max_steps": 2} if given.quick else {}
    written = [f"{key}={value}" for key, value in options.items()]
    peak_memory(python("stages.reward", "data=world_rankings", *written), 1)
    return given.outputs / f"overoptimisation-weak-{seed}" / "reward"


def run(given: argparse.Namespace, name: str, options: Mapping[str, Any]) -> Run:
    folder = given.outputs / f"overoptimisation-{name.replace(' ', '-')}"
    quick = {**QUICK, "rl.evaluate_every": 1} if given.quick else {"rl.rollouts": given.rollouts}
    trained(given.base, folder, given.seed, {**options, "referee": given.base / "referee", **quick}, 1)
    metrics = json.loads((folder / "run/ppo/manifest.json").read_text(encoding="utf-8"))["metrics"]
    return Run(metrics["looks"], int(metrics["kept"]["iteration"]) if metrics["kept"] else 0)


def table(runs: Mapping[str, Run]) -> str:
    """Markdown: a row a run. Errors are standard errors over the held-out prompts."""
    lines = [
        "| | rollouts | KL at the end | learned reward | gold, start | gold, end | gold, kept |",
        "|---|" + "---|" * 6,
    ]
    for name, found in runs.items():
        first, last = found.looks[0], found.looks[-1]
        proxy = f"{first['proxy']:.2f} → {last['proxy']:.2f}"
        cells = [f"{last['iteration']:.0f}", f"{last['kl']:.2f}", proxy, gold(first), gold(last)]
        lines.append(f"| {name} | {' | '.join(cells)} | {gold(found.best)} (rollout {found.kept}) |")
    return "\n".join(lines)


def gold(look: Mapping[str, float]) -> str:
    return f"{look['gold']:.3f} ± {look['gold_error']:.3f}"


def figure(runs: Mapping[str, Run]) -> str:
    """Learned reward and gold score by the square root of KL; a dot on the policy that was kept."""

    def curve(name: str, judge: str) -> Curve:
        points = [(math.sqrt(max(look["kl"], 0.0)), look[judge]) for look in runs[name].looks]
        kept = runs[name].best
        return Curve(name, COLOURS[name], points, [(math.sqrt(max(kept["kl"], 0.0)), kept[judge])])

    panels = [
        Panel(title, [curve(name, judge) for name in runs])
        for judge, title in (("proxy", "learned reward"), ("gold", "gold score"))
    ]
    return curves("learned reward and gold score against the square root of KL", "√KL (√nats per response)", panels)


if __name__ == "__main__":
    main()
