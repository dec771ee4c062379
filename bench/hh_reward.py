"""A reward model of hh-rlhf pairs on a tiny base, by stages.reward and by TRL's RewardTrainer: is either above chance?

python -m bench.hh_reward --model models/stories260k --data harmless-base.jsonl

Every pair is held out once, in one of five folds by prompt. Both engines train on the same rows in the same order, as
many epochs, from the same head (engine=trl of stages.reward).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from evals.intervals import Estimate, bootstrap_mean
from models.split import prompt_key
from reward.rankings import Ranking, write_rankings
from reward.readers import RankingData, read_rankings

OUTPUTS = Path("outputs/bench/hh_reward")
ENGINES = {"ours": "stages.reward", "trl": "TRL's RewardTrainer"}
RECIPE = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "warmup_steps": 10}


def main() -> None:
    arguments = parsed()
    pairs = read_rankings(
        RankingData(path=arguments.data, format="hh", axes=["harmless"], eval_fraction=0.0, on_duplicate_id="keep")
    ).train[: 40 if arguments.quick else None]
    found: dict[str, list[float]] = {engine: [] for engine in arguments.engines}
    for number in range(arguments.folds):
        files = fold(pairs, number, arguments)
        for engine, right in found.items():
            right += measured(engine, number, files, arguments)
            print(f"{engine}, {number + 1} of {arguments.folds} folds: {sum(right) / len(right):.3f}", flush=True)
    accuracy = {engine: bootstrap_mean(right) for engine, right in found.items()}
    counted = json.dumps({engine: estimate.as_dict() for engine, estimate in accuracy.items()}, indent=2)
    arguments.outputs.with_suffix(".json").write_text(counted + "\n", encoding="utf-8")
    print(table(accuracy))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a causal language model")
    parser.add_argument("--data", required=True, help="a file of hh-rlhf")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--max-length", type=int, default=192, help="tokens; longer prompts lose their beginning")
    parser.add_argument("--outputs", type=Path, default=OUTPUTS)
    parser.add_argument("--quick", action="store_true", help="a few pairs and two steps: does it run?")
    return parser.parse_args()


def fold(pairs: list[Ranking], number: int, arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Files of training and held-out pairs; those of one prompt stay together."""
    prompts = {key: i for i, key in enumerate(dict.fromkeys(prompt_key(pair.prompt) for pair in pairs))}
    sides: tuple[list[Ranking], list[Ranking]] = ([], [])
    for pair in pairs:
        sides[prompts[prompt_key(pair.prompt)] % arguments.folds == number].append(pair)
    arguments.outputs.mkdir(parents=True, exist_ok=True)
    train, held = (arguments.outputs / f"{name}-{number}.jsonl" for name in ("train", "held"))
    write_rankings(train, sides[0])
    write_rankings(held, sides[1])
    return train, held


def measured(engine: str, number: int, files: tuple[Path, Path], arguments: argparse.Namespace) -> list[float]:
    """1 for every held-out prompt that is ranked rightly and 0 for the others, as many as the stage counted."""
    recipe = {**RECIPE, "max_steps": 2} if arguments.quick else RECIPE
    options = [f"trainer.{key}={value}" for key, value in recipe.items()]
    options += [f"model.path={arguments.model}", f"engine={engine}", "loss.center=0", f"seed={number}"]
    options += ["data=kwise", f"data.path={files[0]}", f"data.eval_path={files[1]}", "tracking=none"]
    options += [f"layout.max_length={arguments.max_length}", f"name={engine}-{number}", f"outputs={arguments.outputs}"]
    subprocess.run([sys.executable, "-m", "stages.reward", *options], check=True)
    manifest = json.loads((arguments.outputs / f"{engine}-{number}/reward/manifest.json").read_text(encoding="utf-8"))
    accuracy = manifest["metrics"]["held_out"]["harmless"]["accuracy"]
    right = round(accuracy["mean"] * accuracy["n"])
    return [1.0] * right + [0.0] * (accuracy["n"] - right)


def table(accuracy: dict[str, Estimate]) -> str:
    """Markdown: a row an engine."""
    rows = [
        f"| {ENGINES[engine]} | {found.mean:.3f} [{found.low:.3f}, {found.high:.3f}] | {found.n} |"
        for engine, found in accuracy.items()
    ]
    return "\n".join(["| trained by | held-out accuracy | pairs |", "|---|---|---|", *rows])


if __name__ == "__main__":
    main()
