"""Tuning on one group of tasks after another: what is forgotten of the first, and what replaying a little of it saves.

python -m bench.forgetting                                     three worlds, a base for each is made first
python -m bench.forgetting --bases outputs/a/base outputs/b/base --worlds 0 1

For each world: SFT on group A, then on group B without replay and with 5 % and 10 % of A among the rows; every model
answers the same held-out test prompts of both groups (gold mean, greedy).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean

GROUPS = {
    "A": ("country", "person", "translate", "plus", "pick", "how_to", "unknown_country", "unknown_person"),
    "B": ("list", "reverse", "repeat", "sentiment", "extract", "summary", "borderline", "harmful"),
}
SHARES = {"none": 0.0, "5 %": 0.05, "10 %": 0.1}
OUTPUTS = Path("outputs/bench/forgetting")
RECIPE = ("trainer.epochs=3", "trainer.batch_size=40", "trainer.learning_rate=1e-3", "trainer.beta2=0.98")


def main() -> None:
    arguments = parsed()
    bases = arguments.bases or [made_base(world) for world in arguments.worlds]
    found = [measured(world, base, arguments) for world, base in zip(arguments.worlds, bases, strict=True)]
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    path = OUTPUTS.with_suffix(".json")
    path.write_text(json.dumps({"worlds": found, "mean": means(found)}, indent=2) + "\n", encoding="utf-8")
    print(table(found))
    print(path)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, nargs="+", default=[0, 1, 2], help="seeds")
    parser.add_argument("--bases", nargs="+", help="a base of each world, made by stages.base; made first if not said")
    parser.add_argument("--quick", action="store_true", help="a few steps and prompts: does it run?")
    return parser.parse_args()


def made_base(world: int) -> str:
    """A base as the embedded pipeline makes it."""
    place = [f"name={OUTPUTS.name}-{world}", f"seed={world}", "outputs=outputs/bench", "data.limit=28000"]
    recipe = {"max_steps": 700, "batch_size": 40, "learning_rate": 3e-3, "warmup_steps": 40, "final_rate": 0.03}
    recipe |= {"weight_decay": 0.05, "beta2": 0.98, "shuffle": "false"}
    stage("base", *place, *(f"trainer.{name}={value}" for name, value in recipe.items()))
    return f"outputs/bench/{OUTPUTS.name}-{world}/base"


def measured(world: int, base: str, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Gold of each group for every model of one world, and perplexity of base text."""
    rows = 160 if arguments.quick else 3000
    models = {"base": base, "A": tuned(f"A-{world}", base, world, "A", rows)}
    for name, share in SHARES.items():
        replay = ["data@replay=world", f"replay.limit={rows}", f"replay.seed={world}", "replay.eval_fraction=0.0"]
        replay += [f"+replay.only={{family: [{', '.join(GROUPS['A'])}]}}", f"replay_share={share}"]
        folder = f"B-{world}-{int(100 * share)}"
        models[name] = tuned(folder, models["A"], world, "B", rows, *(replay if share else []))
    named = [f"models.{key(name)}={folder}" for name, folder in models.items()]
    per_family = 4 if arguments.quick else 100
    place = [f"name=evaluate-{world}", f"outputs={OUTPUTS}", f"seed={world}", f"per_family={per_family}"]
    stage("evaluate", *named, f"reference={key('A')}", "max_new_tokens=28", *place)
    results = json.loads((OUTPUTS / f"evaluate-{world}/evaluate/results.json").read_text(encoding="utf-8"))
    return {name: of_groups(results[key(name)]) for name in models}


def tuned(name: str, model: str, world: int, group: str, rows: int, *more: str) -> str:
    """SFT on one group of the world's tasks."""
    only = f"data.only={{family: [{', '.join(GROUPS[group])}]}}"
    place = [f"name={name}", f"outputs={OUTPUTS}", f"seed={world}", f"model.path={model}"]
    stage("sft", *place, "data=world", f"data.limit={rows}", only, *RECIPE, *more)
    return f"{OUTPUTS}/{name}/sft"


def key(name: str) -> str:
    """A model's name as an option takes it."""
    return {"none": "replay_0", "5 %": "replay_5", "10 %": "replay_10"}.get(name, name)


def of_groups(result: dict) -> dict[str, float]:
    """Means over the families of each group."""
    found = {group: mean(result["family"][f]["mean"] for f in families) for group, families in GROUPS.items()}
    return {**found, "perplexity": result["perplexity"]["mean"]}


def means(found: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {name: {k: mean(world[name][k] for world in found) for k in found[0][name]} for name in found[0]}


def table(found: list[dict[str, dict[str, float]]]) -> str:
    """Markdown: a row a model, values of all worlds, and how much of what was lost replay keeps."""
    titles = {"base": "base", "A": "tuned on A", **{name: f"then on B, replay {name}" for name in SHARES}}
    lines = ["| | gold on A | forgotten of A | of it kept by replay | gold on B | perplexity of base text |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, title in titles.items():
        forgotten = [world["A"]["A"] - world[name]["A"] for world in found]
        lost = [world["A"]["A"] - world["none"]["A"] for world in found]
        kept = [f"{1 - now / before:.0%}" for now, before in zip(forgotten, lost, strict=True)]
        later = name in SHARES
        cells = [
            " · ".join(f"{world[name]['A']:.3f}" for world in found),
            " · ".join(f"{value:.3f}" for value in forgotten) if later else "",
            " · ".join(kept) if later and name != "none" else "",
            " · ".join(f"{world[name]['B']:.3f}" for world in found),
            " · ".join(f"{world[name]['perplexity']:.2f}" for world in found),
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def stage(name: str, *options: str) -> None:
    """Run a stage as a person types it; what is sealed already is not made again."""
    subprocess.run([sys.executable, "-m", f"stages.{name}", *options, "tracking=none"], check=True)


if __name__ == "__main__":
    main()
