"""Memory and time of PPO on one backbone, beside supervised tuning by LoRA: python -m bench.backbone

The same random Llama, and batches of as many rows of as many tokens, each side in a process of its own. Prints a table
and the ratio of peak memory. No row of text matters: the words are made up.
"""

from __future__ import annotations

import argparse
import json
import random
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.harness import machine, peak_memory, python, write
from bench.material import SIZES, make_model
from train.artifact import read_artifact

RANDOM = random.Random(0)
WORDS = ["".join(RANDOM.choices(string.ascii_lowercase, k=4)) for _ in range(3000)]
STEPS = ("adapter=lora", "trainer.save_every=0", "trainer.learning_rate=1e-5", "data.eval_fraction=0", "tracking=none")


def words(n: int) -> str:
    return " ".join(RANDOM.choices(WORDS, k=n))


def make(folder: Path, size: str, rows: int, tokens: int) -> None:
    """model/, the rows of two steps, and pairs for a reward model."""
    folder.mkdir(parents=True, exist_ok=True)
    make_model(folder, (words(len(WORDS)) for _ in range(8)), SIZES[size])
    answers = [{"prompt": words(tokens), "completion": words(tokens)} for _ in range(2 * rows)]
    pairs = [{"prompt": words(4), "chosen": words(4), "rejected": words(3)} for _ in range(4)]
    for name, lines in (("answers", answers), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def measured(folder: Path, name: str, stage: str, rows: int, threads: int, *more: str) -> dict[str, Any]:
    """Train by LoRA, and tell what it took."""
    place = (f"outputs={folder}", f"name={name}", f"model.path={folder / 'model'}", "resume=restart")
    command = python(f"stages.{stage}", *place, *STEPS, f"trainer.batch_size={rows}", *more)
    memory = peak_memory(command, threads)
    seconds = read_artifact(folder / name / stage, verify=False).manifest["training_seconds"]
    return {"name": name, "peak_memory_mb": memory, "training_seconds": seconds}


def sides(folder: Path, rows: int, tokens: int, threads: int) -> Iterator[dict[str, Any]]:
    """Supervised tuning, and two ways to have a critic."""
    answers = ("data=prompt_completion", f"data.path={folder / 'answers.jsonl'}", "trainer.max_steps=2")
    yield measured(folder, "sft", "sft", rows, threads, *answers)
    rl = (f"rl.prompts={2 * rows}", f"rl.max_new_tokens={tokens}", "rl.rollouts=1", "rl.epochs=1")
    asked = ("data=prompts", f"data.path={folder / 'answers.jsonl'}", f"reward.path={folder / 'reward/reward'}")
    for critic in ("own", "head"):
        yield measured(folder, f"ppo-{critic}", "ppo", rows, threads, *asked, *rl, f"rl.critic={critic}")


def main(size: str, rows: int, tokens: int, quick: bool, threads: int, outputs: Path) -> None:
    folder, size = outputs / "backbone", "tiny" if quick else size
    make(folder, size, rows, tokens)
    pairs = ("data=pairs", "data.axes=[harmless]", f"data.path={folder / 'pairs.jsonl'}", "trainer.max_steps=1")
    measured(folder, "reward", "reward", 4, threads, *pairs)
    about, found = machine(threads), list(sides(folder, rows, tokens, threads))
    for row in found:
        row["ratio"] = row["peak_memory_mb"] / found[0]["peak_memory_mb"]
    settings = {"size": size, "rows": rows, "tokens": tokens}
    write({"subject": "backbone", "machine": about, **settings, "rows": found}, outputs / "backbone.json")
    print("| | peak memory, MB | over SFT | seconds |\n|---|---|---|---|")
    for row in found:
        print(f"| {row['name']} | {row['peak_memory_mb']:.0f} | {row['ratio']:.2f} | {row['training_seconds']:.1f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="100m", choices=list(SIZES))
    parser.add_argument("--rows", type=int, default=8, help="of a batch")
    parser.add_argument("--tokens", type=int, default=32, help="of a prompt, and of a response")
    parser.add_argument("--quick", action="store_true", help="a tiny model: does it run at all?")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--outputs", type=Path, default=Path("outputs/bench"))
    main(**vars(parser.parse_args()))
