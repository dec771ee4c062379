"""Every fine-tuning method on the embedded world: python -m bench.methods --base outputs/demo/base

Each method tunes the same base on the same demonstrations, in a process of its own: `python -m stages.sft adapter=…`
with the pipeline's configuration, one pass. Each is trained at higher and higher rates until its held-out loss is no
lower than at the one before, and measured at the best. Prints a table for docs/methods.md. What is trained already is
not trained again.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from bench.harness import ROOT, Failed, machine, peak_memory, python, write
from evals.subject import Subject
from models.adapters import READS, AdapterConfig
from models.errors import NumericsError
from models.loading import ModelConfig, load_language_model, load_policy, load_tokenizer
from models.scorer import AXES
from stages.world_panel import WorldPanel
from train.artifact import read_artifact

RATES = ("2e-3", "1e-2", "5e-2", "2.5e-1")
QUICK = ("data.limit=60", "replay.limit=20", "trainer.max_steps=2", "trainer.batch_size=8")
COLUMNS = {  # of the table: (title, format)
    "method": ("`adapter=`", "{}"),
    "rate": ("rate", "{}"),
    "trained": ("trained", "{:.2%}"),
    "artefact_mb": ("artefact, MB", "{:.2f}"),
    "peak_memory_mb": ("peak memory, MB", "{:.0f}"),
    "target_tokens_per_second": ("target tokens/s", "{:.0f}"),
    "eval_nll": ("held-out loss", "{:.3f}"),
    **{axis: (axis, "{:.3f}") for axis in AXES},
    "forgetting": ("perplexity of base text", "{:+.2f}"),
}


def pipeline_options(stage: str, *parts: str) -> Iterator[str]:
    """What conf/pipeline.yaml says in these parts of a stage, as options on its command line."""
    configured = OmegaConf.load(ROOT / "conf/pipeline.yaml")[stage]
    for part in parts:
        yield from (f"{part}.{name}={value}" for name, value in configured[part].items())


def make_base(base: Path, threads: int) -> None:
    """As the pipeline makes it."""
    place = (f"outputs={base.parent.parent}", f"name={base.parent.name}", "tracking=none")
    peak_memory(python("stages.base", *place, *pipeline_options("base", "data", "layout", "trainer")), threads)


def train(method: str, rate: str, base: Path, outputs: Path, threads: int, more: tuple[str, ...]) -> Path | None:
    """The artefact of one training; None where its numbers diverged."""
    place = (f"outputs={outputs}", f"name={method}-{rate}", f"model.path={base}", "tracking=none")
    data = ("data=world", *pipeline_options("sft", "data"), "data@replay=world_text", "replay.limit=1600")
    recipe = (*pipeline_options("sft", "trainer"), "trainer.epochs=1", "trainer.save_every=0", f"adapter={method}")
    command = python("stages.sft", *place, *data, *recipe, f"trainer.learning_rate={rate}", *more)
    try:
        peak_memory(command, threads)
    except Failed as failed:
        if failed.returncode != NumericsError.code:
            raise
        return None
    return outputs / f"{method}-{rate}" / "sft"


def best(trained: Callable[[str], Path | None], rates: Sequence[str]) -> tuple[str, Path]:
    """Rate and artefact with the lowest held-out loss, climbing until it rises. trained: the artefact of a rate."""
    found: tuple[str, Path] | None = None
    lowest = math.inf
    for rate in rates:
        artefact = trained(rate)
        loss = math.inf if artefact is None else manifest(artefact)["metrics"]["eval_nll"]
        if loss >= lowest:
            break
        if artefact is not None:
            found, lowest = (rate, artefact), loss
    if found is None:
        raise SystemExit(f"error: no rate of {', '.join(rates)} leaves finite numbers")
    return found


def manifest(artefact: Path) -> Mapping[str, Any]:
    return read_artifact(artefact, verify=False).manifest


def trained_share(base: Path, method: str) -> float:
    """Trained numbers over those of the base with its chat tokens."""
    cfg = ModelConfig(path=str(base))
    adapted, whole = (load_policy(str(base / "model"), cfg, x)[0] for x in (adapter_config(method), None))
    return sum(p.numel() for p in adapted.parameters() if p.requires_grad) / whole.num_parameters()


def adapter_config(method: str) -> AdapterConfig:
    """conf/adapter/<method>.yaml"""
    return AdapterConfig(**OmegaConf.to_object(OmegaConf.load(ROOT / f"conf/adapter/{method}.yaml")))


def perplexity(model: Subject, panel: WorldPanel) -> float:
    """Of text like that which the base was pretrained on."""
    sums, counts = zip(*model.document_nll(panel.documents), strict=True)
    return math.exp(sum(sums) / sum(counts))


def subject(folder: Path) -> Subject:
    cfg = ModelConfig(path=str(folder))
    model, tokenizer = load_language_model(str(folder), cfg), load_tokenizer(str(folder), cfg)
    return Subject(folder.parent.parent.name, model, tokenizer, max_new_tokens=28)  # as the pipeline asks


def row(method: str, rate: str, artefact: Path, base: Path, panel: WorldPanel, before: float) -> dict[str, Any]:
    """All that the table says of a method."""
    told, model = manifest(artefact), subject(artefact / "model")
    gold = panel.gold(model.respond(panel.prompts, temperature=0.0)).mean(0).tolist()
    files = (artefact / "model").glob("*.safetensors")
    return {
        "method": method,
        "rate": rate,
        "trained": trained_share(base, method),
        "artefact_mb": sum(path.stat().st_size for path in files) / 1e6,
        "peak_memory_mb": told["peak_memory_mb"],
        "target_tokens_per_second": told["training_targets"] / told["training_seconds"],
        "eval_nll": told["metrics"]["eval_nll"],
        **dict(zip(AXES, gold, strict=True)),
        "forgetting": perplexity(model, panel) - before,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """In markdown."""
    titles = [title for title, _ in COLUMNS.values()]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for found in rows:
        lines.append(f"| {' | '.join(form.format(found[name]) for name, (_, form) in COLUMNS.items())} |")
    return "\n".join(lines)


def main(base: Path, methods: list[str], quick: bool, per_family: int, threads: int, outputs: Path) -> None:
    if not (base / "manifest.json").exists():
        make_base(base, threads)
    torch.set_num_threads(threads)
    rates, more = (RATES[:1], QUICK) if quick else (RATES, ())
    panel, about, rows = WorldPanel(0, 1 if quick else per_family), machine(threads), []
    before = perplexity(subject(base / "model"), panel)
    for method in methods:

        def trained(rate: str, method: str = method) -> Path | None:
            return train(method, rate, base, outputs / "methods", threads, more)

        rows.append(row(method, *best(trained, rates), base, panel, before))
        print(f"  {json.dumps(rows[-1])}", file=sys.stderr)
        found = {"subject": "methods", "machine": about, "rates": rates, "perplexity_before": before, "rows": rows}
        write(found, outputs / "methods.json")
    print(table(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=Path("outputs/demo/base"), help="made first where it is absent")
    parser.add_argument("--methods", nargs="+", default=list(READS), choices=list(READS))
    parser.add_argument("--quick", action="store_true", help="two steps, one rate, few prompts: does it run at all?")
    parser.add_argument("--per-family", type=int, default=100, help="test prompts of each family of the world")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--outputs", type=Path, default=Path("outputs/bench"))
    main(**vars(parser.parse_args()))
