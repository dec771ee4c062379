"""Supervised tuning against TRL's SFTTrainer: python -m bench.sft

Both train a Llama of 10 M parameters on the same Alpaca rows in the same optimizer steps: one pass, eight rows a step.
Ours is `python -m stages.sft`. Of TRL there is the default, with only what must be equal set (precision, learning rate,
order of rows, length), and settings that its documentation offers for speed. FLOPs: six for each weight and token,
the output layer's for targets alone, and causal attention.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from bench.harness import ROOT, Contestant, Work, machine, peak_memory, python, race, results, table, write
from bench.sides import Settings, Steps, stage_side, trl_side

DATA = Path(os.environ.get("HHH_REAL_DATA", ROOT / "../shared/data")) / "alpaca_en_demo.json"
BATCH, RATE = 8, 1e-3
FOR_SPEED = {  # TRL's settings
    "padding-free": {"gradient_checkpointing": False, "padding_free": True},
    "padding-free in halves": {
        "gradient_checkpointing": False,
        "padding_free": True,
        "per_device_train_batch_size": BATCH // 2,
        "gradient_accumulation_steps": 2,
    },
    "row by row": {
        "gradient_checkpointing": False,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": BATCH,
    },
    "group by length": {"gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"},
}
QUICK_TEXT = [
    {"instruction": f"Count to {n}.", "input": "", "output": " ".join(map(str, range(n + 1)))} for n in range(16)
]


def ours(material: Path, precision: str) -> Contestant:
    """`python -m stages.sft`."""
    inputs = (f"model.path={material / 'model'}", "data=alpaca", f"data.path={material / 'rows.json'}")
    return stage_side("ours", "stages.sft", precision, stage="sft", inputs=inputs, steps=Steps(BATCH, RATE))


def peer(material: Path, precision: str, name: str, settings: Settings) -> Contestant:
    """SFTTrainer with these settings beside what must be equal."""
    equal: Settings = {"lr_scheduler_type": "constant", "per_device_train_batch_size": BATCH, "num_train_epochs": 1}
    return trl_side(
        name,
        precision,
        lambda folder, options: python("bench.trl_sft", str(material), str(folder), options),
        equal=equal | {"train_sampling_strategy": "sequential"},
        rate=RATE,
        settings=settings,
        same_steps="train_sampling_strategy" not in settings,
    )


def main(quick: bool, settings: list[str], rows: int, repetitions: int, threads: int, outputs: Path) -> None:
    material, precisions = outputs / "material-sft", ("fp32",) if quick else ("fp32", "bf16")
    material.mkdir(parents=True, exist_ok=True)
    source = material / "quick.json" if quick else DATA
    if quick:
        source.write_text(json.dumps(QUICK_TEXT))
    elif not DATA.is_file():
        sys.exit(f"error: {DATA}: no such file; set HHH_REAL_DATA to the folder of real data, or say --quick")
    size = ("16", "tiny") if quick else (str(rows), "10m")
    about = machine(threads)
    peak_memory(python("bench.material", str(material), str(source), *size), threads)
    facts, peak = (json.loads((material / name).read_text()) for name in ("facts.json", "peak.json"))
    contestants = [ours(material, precision) for precision in precisions]
    for name in ["default", *([] if quick else settings)]:
        contestants += [peer(material, precision, name, FOR_SPEED.get(name, {})) for precision in precisions]
    imports = (
        {}
        if quick
        else {
            name: peak_memory([sys.executable, "-c", f"import {name}"], threads)
            for name in ("stages.sft", "bench.trl_sft")
        }
    )
    beside = {"machine": about, "matrix_peak_gflops": peak, "model_and_rows": facts, "imports_mb": imports}
    work = Work(facts["samples"], facts["targets"], facts["flops"])

    def keep(agreed: dict[str, object]) -> None:
        found = results(contestants, work, peak)
        write({"subject": "sft", **beside, "agreement": agreed, **found}, outputs / "sft.json")

    race(contestants, 1 if quick else repetitions, threads, keep)
    print(table(results(contestants, work, peak)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model, made-up rows, once: does it run at all?")
    parser.add_argument("--settings", nargs="*", default=list(FOR_SPEED), choices=list(FOR_SPEED), help="of TRL")
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--outputs", type=Path, default=Path("outputs/bench"))
    main(**vars(parser.parse_args()))
