"""Whole rankings against pairs of them: python -m bench.preference --sft outputs/demo/sft

DPO of one SFT model on one file of rankings by each of METHODS, with the pipeline's recipe, at several seeds of the row
order; every policy answers the embedded world's test prompts, greedy, and the truth judges.
A gain is over the SFT model on the same prompts; its interval is over prompts, each first averaged over the seeds.
Writes <outputs>/preference.json, and the table of docs/preference.md with --docs docs.
What is trained and measured already is not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import mean

import torch

from bench.harness import machine, peak_memory, python, write
from bench.methods import pipeline_options, subject
from bench.pages import put
from evals.intervals import Estimate, paired_difference
from models.scorer import AXES
from stages.world_panel import WorldPanel

METHODS = {
    "listwise": ("whole ranking (`loss=listwise loss.ties=strict`)", ("loss=listwise", "loss.ties=strict")),
    "pairwise": ("all strict pairs (`loss=sigmoid`)", ("loss=sigmoid",)),
    "best_worst": ("best against worst (`loss.pairs=best_worst`)", ("loss=sigmoid", "loss.pairs=best_worst")),
}
QUICK = ("trainer.max_steps=2", "trainer.warmup_steps=1")


def train(method: str, nll: float, seed: int, arguments: argparse.Namespace) -> Path:
    """The policy of one method at one seed."""
    name = f"{method}-{nll:g}-{seed}"
    place = (f"outputs={arguments.outputs / 'preference'}", f"name={name}", f"seed={seed}", "tracking=none")
    data = (f"model.path={arguments.sft}", "data=kwise", f"data.path={arguments.rankings}", "data.eval_fraction=0.05")
    recipe = (*pipeline_options("dpo", "trainer"), "trainer.save_every=0", *(QUICK if arguments.quick else ()))
    options = (*place, *data, *recipe, *METHODS[method][1], f"loss.nll={nll}")
    peak_memory(python("stages.dpo", *options), arguments.threads)
    return arguments.outputs / "preference" / name / "dpo"


def gold(model: Path, panel: WorldPanel) -> list[list[float]]:
    """Helpful, honest and harmless of every answer; kept beside the model."""
    kept = model / f"gold-{len(panel.tasks)}.json"
    if not kept.exists():
        answers = subject(model / "model").respond(panel.prompts, temperature=0.0)
        kept.write_text(json.dumps(panel.gold(answers).tolist()), encoding="utf-8")
    return json.loads(kept.read_text(encoding="utf-8"))


def row(method: str, nll: float, runs: list[torch.Tensor], before: torch.Tensor) -> dict[str, object]:
    """What the table says of a method. runs: (prompts, 3) of each seed."""
    together = torch.stack(runs).mean(0)
    gain = paired_difference(together.mean(1), before.mean(1))
    means = [float(run.mean()) for run in runs]
    return {"method": method, "nll": nll, "gold": means, "gain": gain.as_dict(), **_axes(together)}


def _axes(values: torch.Tensor) -> dict[str, float]:
    return dict(zip(AXES, values.mean(0).tolist(), strict=True))


def table(rows: list[dict], before: torch.Tensor) -> str:
    """In markdown."""
    lines = ["| learnt from | NLL | gold mean, by seed | mean | gain over SFT | helpful | honest | harmless |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    axes = " | ".join(f"{value:.3f}" for value in _axes(before).values())
    lines.append(f"| – (SFT) | | | {float(before.mean()):.3f} | | {axes} |")
    for found in rows:
        gain = Estimate(**found["gain"])
        cells = [METHODS[found["method"]][0], f"{found['nll']:g}", " · ".join(f"{x:.3f}" for x in found["gold"])]
        cells += [f"{mean(found['gold']):.3f}", f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"]
        lines.append(f"| {' | '.join([*cells, *(f'{found[axis]:.3f}' for axis in AXES)])} |")
    return "\n".join(lines)


def main(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    panel, about, rows = WorldPanel(0, 1 if arguments.quick else 100), machine(arguments.threads), []
    answers = subject(arguments.sft / "model").respond(panel.prompts, temperature=0.0)
    before = panel.gold(answers)
    for nll in arguments.nll:
        for method in METHODS:
            models = [train(method, nll, seed, arguments) for seed in arguments.seeds]
            rows.append(row(method, nll, [torch.tensor(gold(model, panel)) for model in models], before))
            print(f"  {json.dumps(rows[-1])}", file=sys.stderr)
            found = {"subject": "preference", "machine": about, "seeds": arguments.seeds, "rows": rows}
            write({**found, "sft": _axes(before)}, arguments.outputs / "preference.json")
    print(table(rows, before))
    if arguments.docs:
        put(table(rows, before), arguments.docs / "preference.md")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sft", type=Path, default=Path("outputs/demo/sft"), help="of world 0, as the pipeline makes it"
    )
    parser.add_argument("--rankings", type=Path, default=Path("outputs/demo/reward/rankings.jsonl"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the rows' order")
    parser.add_argument("--nll", type=float, nargs="+", default=[4.0], help="weights of the best response's NLL")
    parser.add_argument("--quick", action="store_true", help="two steps and few prompts: does it run at all?")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--outputs", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--docs", type=Path, help="the folder of preference.md, whose table is renewed")
    main(parser.parse_args())
