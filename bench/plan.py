"""Plans against what training really keeps: python -m bench.plan

Each case is a stage on a Llama of random weights, run for two steps by `bench.observed`, and planned by `launch.plan`
from the model's config.json. On CPU processes states and saved activations are compared, tensor by tensor; with
--device cuda the allocator's peak too. Prints a table and writes outputs/bench/plan.json.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import string
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.harness import machine, peak_memory, python, write
from bench.material import make_model
from bench.observed import trained
from launch.planning.fitting import Fit, Machine, Planner
from launch.planning.rows import RowShape
from models.chat import ChatFormat, Message
from models.loading import ModelConfig, load_tokenizer

SIZES = {"bench": (1024, 512, 1408, 2, 8), "gpu": (32_000, 2048, 5632, 16, 16)}  # as in bench.material
ROWS, WORDS = 8, 48  # of a step; of a prompt, and of a response
QUIET = ("tracking=none", "trainer.save_every=0", "trainer.learning_rate=1e-5", "data.eval_fraction=0")
CHECKPOINTED = "trainer.gradient_checkpointing=true"
TOGETHER = "with workspace and buffers"  # activations, and all that a step holds beside them for a moment
PARTS = ("weights", "gradients", "optimizer", "activations", TOGETHER)
RANDOM = random.Random(0)
KNOWN = ["".join(RANDOM.choices(string.ascii_lowercase, k=4)) for _ in range(60)]


def words(n: int) -> str:
    """One token each: the tokenizer has room for all of them, and a text begins with the same one."""
    return " ".join([KNOWN[0], *RANDOM.choices(KNOWN, k=n - 1)])


@dataclass(frozen=True)
class Case:
    """A stage with options, on so many processes."""

    stage: str
    options: tuple[str, ...] = ()
    processes: int = 1

    @property
    def name(self) -> str:
        return " ".join([self.stage, *self.options])


def cases() -> Iterator[Case]:
    """On one process every way to train, on two every level of sharding."""
    for stage in ("sft", "reward", "dpo"):
        for adapter in ("full", "lora"):
            for more in ((), (CHECKPOINTED,)):
                yield Case(stage, (f"adapter={adapter}", *more))
    yield Case("sft", ("adapter=full", "trainer.bf16=true"))
    yield Case("sft", ("adapter=lora", "trainer.bf16=true", CHECKPOINTED))
    for adapter in ("full", "lora"):
        yield Case("ppo", (f"adapter={adapter}",))
    yield Case("ppo", ("adapter=full", "rl.algorithm=grpo", "rl.samples=4"))
    for level in ("none", "zero1", "zero2", "zero3"):
        yield Case("sft", ("adapter=full", f"deepspeed={level}"), processes=2)
    yield Case("sft", ("adapter=lora", "deepspeed=zero2"), processes=2)


class Material(NamedTuple):
    """A folder with a model, a reward model, and data whose rows all have one shape."""

    folder: Path
    shape: RowShape

    def options(self, case: Case) -> list[str]:
        data = {
            "sft": ("data=prompt_completion", f"data.path={self.folder / 'answers.jsonl'}"),
            "ppo": ("data=prompts", f"data.path={self.folder / 'answers.jsonl'}"),
        }.get(case.stage, ("data=pairs", "data.axes=[harmless]", f"data.path={self.folder / 'pairs.jsonl'}"))
        rl = [
            f"reward.path={self.folder / ('lora' if 'adapter=lora' in case.options else 'full') / 'reward'}",
            f"rl.prompts={ROWS}",
            f"rl.max_new_tokens={self.shape.response}",
            "rl.rollouts=1",
            "rl.epochs=1",
            "rl.evaluation_prompts=0",
        ]
        steps = rl if case.stage == "ppo" else ["trainer.max_steps=2"]
        batch = ROWS if "rl.samples=4" not in case.options else 4 * ROWS
        model = f"model.path={self.folder / 'model'}"
        return [model, *data, *QUIET, *steps, f"trainer.batch_size={batch}", "trainer.accumulation=2", *case.options]

    def shape_of(self, case: Case) -> RowShape:
        responses = {"sft": 1, "ppo": 4 if "rl.samples=4" in case.options else 1}.get(case.stage, 2)
        return self.shape.of(responses)


def make(folder: Path, size: str) -> Material:
    """Rows of words that are one token each, and a reward model."""
    folder.mkdir(parents=True, exist_ok=True)
    make_model(folder, (words(3000) for _ in range(8)), SIZES[size])
    asked = [words(WORDS) for _ in range(2 * ROWS)]
    answers = [{"prompt": prompt, "completion": words(WORDS)} for prompt in asked]
    pairs = [{"prompt": prompt, "chosen": words(WORDS), "rejected": words(WORDS)} for prompt in asked]
    for name, rows in (("answers", answers), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chat = ChatFormat(load_tokenizer(str(folder / "model"), ModelConfig(path=str(folder / "model"))))
    prompt = (Message("user", asked[0]),)
    made = Material(folder, RowShape(len(chat.prompt(prompt)), len(chat.response(answers[0]["completion"]))))
    for adapter in ("full", "lora"):
        options = made.options(Case("reward", (f"adapter={adapter}",)))
        trained("reward", [*options, f"outputs={folder}", f"name={adapter}", "resume=restart"])
    return made


def observed(case: Case, material: Material, threads: int) -> list[dict[str, Any]]:
    """What each process saw. One alone is this process."""
    found = material.folder / "observed"
    for before in (found, material.folder / "observed-run"):  # a level of sharding makes no other run
        shutil.rmtree(before, ignore_errors=True)
    options = [*material.options(case), f"outputs={material.folder}", "name=observed-run", "resume=restart"]
    if case.processes == 1:
        return [dict(trained(case.stage, options))]
    together = ("--nproc_per_node", str(case.processes), "-m", "bench.observed")
    command = python("torch.distributed.run", *together, str(found), f"stages.{case.stage}", *options)
    peak_memory(command, threads)
    return [json.loads((found / f"rank-{rank}.json").read_text()) for rank in range(case.processes)]


def planned(case: Case, material: Material, device: str) -> Fit:
    """What the plan says of the same command."""
    options, shape = material.options(case), material.shape_of(case)
    planner = Planner(case.stage, options, shape, Machine(case.processes, float("inf"), device))
    level = next((o.partition("=")[2] for o in case.options if o.startswith("deepspeed=")), "none")
    return planner.fit(level, planner.cfg.trainer.gradient_checkpointing, planner.micro_batches()[-1])


def compared(case: Case, fit: Fit, seen: Sequence[dict[str, Any]], device: str) -> dict[str, Any]:
    """Bytes of each part, and how far the plan is off the largest of the processes."""
    said = {**fit.states._asdict(), **fit.micro._asdict()}
    said[TOGETHER] = fit.micro.activations + fit.micro.transient + fit.states.buffers
    seen = [{**process, TOGETHER: process["activations"] + process["transient"]} for process in seen]
    parts = PARTS
    if device == "cuda":
        said["cuda_peak"], parts = fit.phases["training"], (*PARTS, "cuda_peak")
    row: dict[str, Any] = {"case": case.name, "processes": case.processes, "parts": {}}
    if case.processes > 1:
        row |= {"traffic": seen[0]["traffic"], "numel": seen[0]["numel"]}
    for part in parts:
        real = max(process[part] for process in seen)
        row["parts"][part] = {"planned": said[part], "measured": real, "error": (said[part] - real) / max(1, real)}
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """In markdown: measured MB and the plan's error."""
    parts = list(rows[0]["parts"])
    lines = [f"| | processes | {' | '.join(parts)} |", "|---|" + "---|" * (len(parts) + 1)]
    for row in rows:
        cells = [f"{x['measured'] / 1e6:.2f} ({x['error']:+.1%})" for x in row["parts"].values()]
        lines.append(f"| `{row['case']}` | {row['processes']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(only: str, device: str, threads: int, outputs: Path) -> None:
    size = "gpu" if device == "cuda" else "bench"
    torch.set_num_threads(threads)
    material, about, rows = make(outputs / f"plan-{size}", size), machine(threads), []
    for case in cases():
        if only not in case.name or (device == "cuda" and case.processes > 1):
            continue
        rows.append(compared(case, planned(case, material, device), observed(case, material, threads), device))
        print(f"  {json.dumps(rows[-1])}", file=sys.stderr)
        write({"subject": "plan", "machine": about, "device": device, "rows": rows}, outputs / "plan.json")
    print(table(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="the cases whose name has this in it")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="cuda: a larger model, and its peak")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--outputs", type=Path, default=Path("outputs/bench"))
    main(**vars(parser.parse_args()))
