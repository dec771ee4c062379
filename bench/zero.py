"""Every stage at every level of ZeRO on two processes, against one process: python -m bench.zero

Each pair of processes trains a small Llama on the same rows as one process alone, with all weights and with LoRA. The
table says by how much the loss of a step differs at most, which bytes a process holds, and how long a step takes on
this machine, whose processes share its cores: no measure of speed on a cluster. Writes outputs/bench/zero.json, and the
table of docs/sharding.md with --docs docs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.harness import machine, peak_memory, python, write
from bench.held_bytes import PARTS
from bench.pages import put

STAGES, METHODS = ("base", "sft", "reward", "dpo", "ppo"), ("full", "lora")
LEVELS = ("none", "zero1", "zero2", "zero3")
ALONE = "alone"  # one process, to which all others are compared
SIZES = {"small": (1000, 128, 2, 4, 256), "tiny": (300, 32, 2, 2, 64)}  # vocabulary, hidden, layers, heads, network
# A schedule, clipping and decay that bite, two micro-batches a step, and an epsilon above the noise of rounding.
RECIPE = (
    *("batch_size=8", "accumulation=2", "learning_rate=1e-3", "warmup_steps=2", "schedule=cosine", "epsilon=1e-6"),
    *("max_grad_norm=0.5", "weight_decay=0.1", "log_every=1", "save_every=0"),
)
# Four steps a rollout; an epsilon above the noise of rounding, or Adam's first steps are the signs of it.
ROLLOUTS = ("rl.prompts=16", "rl.epochs=2", "rl.max_new_tokens=16", "rl.evaluation_prompts=8", "trainer.epsilon=1e-3")


def inputs(stage: str, material: Path, method: str = "full") -> tuple[str, ...]:
    """What a stage trains on."""
    model = f"model.path={material / 'material/base'}"
    return {
        "base": ("data=world_text", "data.limit=64", *architecture(material)),
        "sft": ("data=world", "data.limit=64", model),
        "reward": ("data=kwise", f"data.path={material / 'rankings.jsonl'}", model),
        "dpo": ("data=kwise", f"data.path={material / 'rankings.jsonl'}", model),
        "ppo": ("data=world_prompts", "data.limit=64", model, f"reward.path={material / f'material-{method}/reward'}"),
    }[stage]


def architecture(material: Path) -> Iterator[str]:
    """Of the base that is made, as `make_material` wrote it down."""
    names = ("vocabulary", "hidden", "layers", "heads", "feed_forward")
    for name, value in zip(names, json.loads((material / "sizes.json").read_text()), strict=True):
        yield f"architecture.{name}={value}"


def make_material(folder: Path, sizes: Sequence[int], stages: Sequence[str]) -> None:
    """Rankings, a base that the other stages start from, and reward models for one that learns from them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sizes.json").write_text(json.dumps(sizes))
    with (folder / "rankings.jsonl").open("w") as file:
        file.writelines(json.dumps(ranking(n)) + "\n" for n in range(64))
    place = (f"outputs={folder}", "tracking=none", "resume=restart", "trainer.max_steps=20")
    peak_memory(python("stages.base", *place, "name=material", *inputs("base", folder)), 1)
    for method in METHODS if "ppo" in stages else ():
        own = (f"name=material-{method}", f"adapter={method}", "trainer.batch_size=8")
        peak_memory(python("stages.reward", *place, *own, *inputs("reward", folder)), 1)


def ranking(n: int) -> dict[str, Any]:
    """A question with three responses of unlike length, judged on every axis."""
    texts = (f"{n} plus 4 is {n + 4}.", "I do not know.", f"It is {n}. " * (1 + n % 3))
    scores = ((1.0, 1.0, 1.0), (0.2, 0.9, None), (0.0, 0.1, 0.5))
    judged = [dict(zip(("helpful", "honest", "harmless"), of, strict=True)) for of in scores]
    responses = [{"text": text, "scores": of} for text, of in zip(texts, judged, strict=True)]
    return {"prompt": f"What is {n} plus 4?", "responses": responses}


def job(stage: str, method: str, level: str, name: str, folder: Path, steps: int) -> dict[str, Any]:
    """What a worker runs."""
    adapter = () if stage == "base" else (f"adapter={method}",)
    sharding = () if level == "none" else ("deepspeed.whole_below=0", "deepspeed.bucket=1000000")
    options = [
        *(f"outputs={folder}", f"name={name}", "tracking=none", "resume=restart", "data.eval_fraction=0.125"),
        *inputs(stage, folder, method),
        *adapter,
        *(f"deepspeed={level}", *sharding),
        *(f"trainer.{option}" for option in (*RECIPE, f"max_steps={steps}")),
        *((*ROLLOUTS, f"rl.rollouts={-(-steps // 4)}") if stage == "ppo" else ()),
    ]
    return {"stage": stage, "options": options}


def trained(jobs: list[dict[str, Any]], processes: int, folder: Path) -> None:
    """Let so many processes, with a core each, train them."""
    path = folder / f"jobs-{processes}.json"
    path.write_text(json.dumps(jobs))
    launcher = (
        [] if processes == 1 else ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
    )
    peak_memory(python(*launcher, "bench.zero_worker", str(path)), threads=1)


def losses(artefact: Path) -> list[float]:
    lines = map(json.loads, (artefact / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def row(stage: str, method: str, level: str, folder: Path) -> dict[str, Any]:
    """All that the table says of a level."""
    ours, alone = (folder / f"{method}-{x}" / stage for x in (level, ALONE))
    pairs = list(zip(losses(ours), losses(alone), strict=True))
    told = json.loads((ours / "manifest.json").read_text())
    held = json.loads((ours / "held.json").read_text())
    return {
        "stage": stage,
        "method": method,
        "level": level,
        "processes": told["hardware"]["processes"],
        "steps": len(pairs),
        "loss_difference": max(abs(a - b) for a, b in pairs),
        "held_bytes": {part: max(one[part] for one in held) for part in PARTS},
        "seconds_per_step": told["training_seconds"] / len(pairs),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """In markdown."""
    titles = ("stage", "trains", "`deepspeed=`", "loss differs by", *(f"{p}, MB" for p in PARTS), "all, MB", "s a step")
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for found in rows:
        held = found["held_bytes"].values()
        cells = [found["stage"], found["method"], found["level"], f"{found['loss_difference']:.0e}"]
        cells += [f"{n / 1e6:.2f}" for n in (*held, sum(held))]
        cells += [f"{found['seconds_per_step']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: argparse.Namespace) -> None:
    folder, steps = arguments.outputs / "zero", 3 if arguments.quick else 20
    make_material(folder, SIZES["tiny" if arguments.quick else "small"], arguments.stages)
    kinds = [(stage, method) for stage in arguments.stages for method in METHODS if (stage, method) != ("base", "lora")]
    alone = [job(*kind, "none", f"{kind[1]}-{ALONE}", folder, steps) for kind in kinds]
    together = [job(*kind, level, f"{kind[1]}-{level}", folder, steps) for kind in kinds for level in arguments.levels]
    trained(alone, 1, folder)
    trained(together, 2, folder)
    rows = [row(*kind, level, folder) for kind in kinds for level in arguments.levels]
    write({"subject": "zero", "machine": machine(1), "rows": rows}, arguments.outputs / "zero.json")
    print(table(rows), file=sys.stdout)
    if arguments.docs:
        put(table(rows), arguments.docs / "sharding.md")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--levels", nargs="+", default=list(LEVELS), choices=list(LEVELS))
    parser.add_argument("--quick", action="store_true", help="three steps of a tiny model: does it run at all?")
    parser.add_argument("--outputs", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--docs", type=Path, help="the folder of sharding.md, whose whole table is renewed")
    main(parser.parse_args())
