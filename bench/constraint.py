"""Harmlessness held as a constraint, or as a term of the sum: python -m bench.constraint --bases outputs/demo

From the same sft and reward artefacts, with the recipe of the embedded pipeline less its clip of the score, which would
limit a sum and not a cost: PPO on the sum of the axes at several weights of harmless, and PPO on the sum of the other
two with the mean cost of harmless held at what weight 2 reaches.
All are compared over their last rollouts, whose prompts are the same: learned rewards of the axes, and the truth's
judgement of answers to held-out prompts. Writes <outputs>/constraint.json, and the table of docs/constraint.md with
--docs docs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np

from bench.harness import machine, write
from bench.pages import put
from bench.world_runs import QUICK, trained
from models.scorer import AXES

LAST = 10  # rollouts that are compared
WEIGHTS = (1.0, 2.0, 4.0)  # of harmless in the sum
LIKE = 2.0  # the weight whose cost is the limit
CONSTRAINED = "constrained"


class End(NamedTuple):
    """Means over the last rollouts of a run."""

    learned: dict[str, float]  # reward of each axis
    gold: dict[str, float]
    multiplier: float | None

    @property
    def cost(self) -> float:
        return -self.learned["harmless"]

    @property
    def helpfulness(self) -> float:
        """The learned reward of what is not held."""
        return self.learned["helpful"] + self.learned["honest"]


Found = dict[str, list[End]]
"""Of every variant, the end at each base."""


def main() -> None:
    given = parsed()
    about = machine(given.threads)
    found: Found = {name: [] for name in (*map(str, WEIGHTS), CONSTRAINED)}
    for base in given.bases:
        for weight in WEIGHTS:
            found[str(weight)].append(ended(base, f"{weight:g}", {"rl.weights.harmless": weight}, given))
        limit = found[str(LIKE)][-1].cost
        held = {"rl.constraint.limit": limit, "rl.constraint.multiplier": 0.5, "rl.constraint.learning_rate": 0.5}
        found[CONSTRAINED].append(ended(base, CONSTRAINED, held, given))
        told = {name: [end._asdict() for end in ends] for name, ends in found.items()}
        write({"subject": "constraint", "machine": about, "ends": told}, given.outputs / "constraint.json")
    print(table(found))
    if given.docs:
        put(table(found), given.docs / "constraint.md")


def ended(base: Path, name: str, options: dict[str, Any], given: argparse.Namespace) -> End:
    """A training, and where it ended."""
    folder = given.outputs / "constraint" / base.name / name
    size = QUICK if given.quick else {"rl.rollouts": given.rollouts, "rl.evaluation_prompts": 256}
    looks = trained(base, folder, 0, {**size, "rl.score.clip": None, **options}, given.threads)
    lines = map(json.loads, (folder / "run/ppo/metrics.jsonl").read_text().splitlines())
    rollouts = [line for line in lines if "objective/kl" in line][-LAST:]
    learned = {axis: mean(line[f"reward/{axis}"] for line in rollouts) for axis in AXES}
    gold = {axis: mean(look.axes[axis] for look in looks[-LAST:]) for axis in AXES}
    return End(learned, gold, rollouts[-1].get("constraint/multiplier"))


def at_equal_cost(sums: Sequence[End], cost: float) -> float:
    """Helpfulness of the fixed weights at this cost: on the line between those with less and with more of it, or that
    of the nearest."""
    ends = sorted(sums, key=lambda end: end.cost)
    return float(np.interp(cost, [end.cost for end in ends], [end.helpfulness for end in ends]))


def gains(found: Found) -> list[float]:
    """Helpfulness of the constrained run over the fixed weights' at its own cost, at each base."""
    sums = [list(ends) for ends in zip(*(found[str(weight)] for weight in WEIGHTS), strict=True)]
    return [end.helpfulness - at_equal_cost(of, end.cost) for of, end in zip(sums, found[CONSTRAINED], strict=True)]


def table(found: Found) -> str:
    """Markdown: a row a variant, the bases beside each other."""
    lines = [
        "| harmless | cost | helpful + honest | gold helpful | honest | harmless | λ at the end |",
        "|---" * 7 + "|",
    ]

    def beside(values: Sequence[float | None], digits: int) -> str:
        return " · ".join("" if value is None else f"{value:.{digits}f}" for value in values).strip(" ·")

    for name, ends in found.items():
        named = f"weight {float(name):g}" if name != CONSTRAINED else f"held at the cost of weight {LIKE:g}"
        cells = [beside([end.cost for end in ends], 2), beside([end.helpfulness for end in ends], 2)]
        cells += [beside([end.gold[axis] for end in ends], 3) for axis in AXES]
        lines.append(f"| {named} | {' | '.join(cells)} | {beside([end.multiplier for end in ends], 2)} |")
    gained = " · ".join(f"{gain:+.3f}" for gain in gains(found))
    return "\n".join([*lines, "", f"At equal cost the constraint is ahead in helpful + honest by {gained}."])


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", type=Path, nargs="+", required=True, help="folders of chains, as outputs/demo")
    parser.add_argument("--rollouts", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--outputs", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--docs", type=Path, help="the folder of constraint.md, whose table is renewed")
    parser.add_argument("--quick", action="store_true", help="two small rollouts: does it run?")
    return parser.parse_args()


if __name__ == "__main__":
    main()
