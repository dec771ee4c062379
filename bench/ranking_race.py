"""What bench.reward and bench.dpo share: the contestants, the material, the command line."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.harness import ROOT, Contestant, Work, machine, peak_memory, python, race, results, table, write
from bench.sides import Settings, Steps, stage_side, trl_side

REAL = Path(os.environ.get("HHH_REAL_DATA", ROOT / "../shared/data"))
SOURCES = {"pairs": "hh_harmless_pairs.jsonl", "short": "hh_harmless_pairs.jsonl", "kwise": "kwise_oasst.jsonl"}
BATCH = {"pairs": 8, "short": 8, "kwise": 2, "quick": 8}  # rankings of a step
RATE = 1e-4
PAIRS_OF_FOUR = 6
ALL = "pairs of a step"  # as many micro-batches


def ours(stage: str, material: Path, precision: str, kind: str, name: str, module: str, *more: str) -> Contestant:
    """A stage of ours, or a benchmark's module that runs one, on the rankings."""
    inputs = (f"model.path={material / 'model'}", "data=kwise", f"data.path={material / 'rankings.jsonl'}")
    return stage_side(name, module, precision, stage=stage, inputs=inputs, steps=Steps(BATCH[kind], RATE), more=more)


def peer(trainer: str, material: Path, precision: str, kind: str, name: str, settings: Settings) -> Contestant:
    """TRL's trainer on all pairs with these settings beside what must be equal."""
    pairs = BATCH[kind] * (PAIRS_OF_FOUR if kind == "kwise" else 1)
    if settings.get("gradient_accumulation_steps") == ALL:
        settings = settings | {"gradient_accumulation_steps": pairs}
    return trl_side(
        name,
        precision,
        lambda folder, options: python("bench.trl_rankings", trainer, str(material), str(folder), options),
        equal={"per_device_train_batch_size": pairs // int(str(settings.get("gradient_accumulation_steps", 1)))},
        rate=RATE,
        settings=settings,
    )


def run(
    subject: str,
    flops: str,
    contestants: Callable[[Path, str, str], Sequence[Contestant]],
    given: argparse.Namespace,
) -> None:
    """Make the material, let all race, print the table, write <outputs>/<subject>.json."""
    kind = "quick" if given.quick else given.kind
    size = "tiny" if given.quick else "10m" if given.vocabulary == "8k" else "10m-32k"
    material = given.outputs / f"material-{subject}-{kind}-{size}"
    material.mkdir(parents=True, exist_ok=True)
    source = REAL / SOURCES.get(kind, "")
    if not given.quick and not source.is_file():
        sys.exit(f"error: {source}: no such file; set HHH_REAL_DATA to the folder of real data, or say --quick")
    about = machine(given.threads)
    peak_memory(
        python("bench.ranking_material", str(material), str(source), str(given.rows), size, kind), given.threads
    )
    facts, peak = (json.loads((material / name).read_text()) for name in ("facts.json", "peak.json"))
    precisions = ("fp32",) if given.quick else tuple(given.precisions)
    sides = [side for precision in precisions for side in contestants(material, precision, kind)]
    sides = [side for side in sides if not given.only or side.name in ("ours", "TRL, default", *given.only)]
    work = Work(facts["samples"], facts["targets"], facts[flops])
    beside = {"machine": about, "matrix_peak_gflops": peak, "model_and_rows": facts}
    place = given.outputs / f"{subject}-{kind}-{given.vocabulary}.json"

    def keep(agreed: dict[str, object]) -> None:
        write({"subject": subject, **beside, "agreement": agreed, **results(sides, work, peak)}, place)

    race(sides, 1 if given.quick else given.repetitions, given.threads, keep)
    print(f"prompts are {facts['prompt_share']:.0%} of the sequences\n\n{table(results(sides, work, peak))}")


def arguments(about: str, kinds: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model, made-up pairs, once: does it run at all?")
    parser.add_argument("--kind", default="pairs", choices=kinds, help="hh-rlhf, with its last turns alone, K = 4")
    parser.add_argument("--vocabulary", default="8k", choices=("8k", "32k"))
    parser.add_argument("--precisions", nargs="*", default=["fp32", "bf16"], choices=("fp32", "bf16"))
    parser.add_argument("--only", nargs="*", default=[], help="names of contestants beside ours and TRL's default")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--outputs", type=Path, default=Path("outputs/bench"))
    return parser.parse_args()
