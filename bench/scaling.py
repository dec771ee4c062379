"""Scaling on paper: python -m bench.scaling

Measures what a step of DeepSpeed ZeRO sends (two gloo processes on the CPU, by `bench.observed`), computes from that
and from stated hardware the tokens a second of 8, 64 and 512 GPUs for models of 1 to 70 B, with the memory that
`launch.plan` gives them, and writes outputs/bench/scaling.json; with --docs docs the tables and the picture of
docs/scaling.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import LlamaConfig

from bench import plan
from bench.harness import machine, write
from bench.pages import put
from bench.scaling_page import PICTURE, TABLES, picture
from bench.throughput import THEORY, Hardware, Shape, Traffic, Work, step
from launch.planning.fitting import LEVELS, Fit, Machine, Planner
from launch.planning.memory import LIVE
from launch.planning.planned import GIB
from launch.planning.rows import RowShape

GPUS = (8, 64, 512)
ROWS, TOKENS = 512, 2048  # of a step, whatever the GPUs: the experiment stays the same
HEADROOM = 0.1
MODELS = {  # vocabulary, hidden, feed-forward, layers, heads, heads of keys and values, tied embeddings
    "1 B": (128_256, 2048, 8192, 16, 32, 8, True),  # Llama 3.2 1B
    "8 B": (128_256, 4096, 14_336, 32, 32, 8, False),  # Llama 3.1 8B
    "13 B": (32_000, 5120, 13_824, 40, 40, 40, False),  # Llama 2 13B
    "70 B": (128_256, 8192, 28_672, 80, 64, 8, False),  # Llama 3.1 70B
}
MEASURED, TWO_PROCESSES = ("none", "zero1", "zero2", "zero3"), "sft adapter=full deepspeed="


def config_of(name: str) -> LlamaConfig:
    vocabulary, hidden, feed_forward, layers, heads, of_keys, tied = MODELS[name]
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=of_keys,
        max_position_embeddings=TOKENS,
        tie_word_embeddings=tied,
    )


def measured_traffic(outputs: Path, threads: int) -> dict[str, dict[str, Any]]:
    """What each level sends, in Ψ: with every micro-batch, and once a step. Measured by bench.plan, unless it has."""
    if not (outputs / "plan.json").is_file():
        plan.main(TWO_PROCESSES, "cpu", threads, outputs)
    rows = json.loads((outputs / "plan.json").read_text())["rows"]
    found = {}
    for level in MEASURED:
        row = next(row for row in rows if row["case"] == f"{TWO_PROCESSES}{level}")
        traffic = parted(*(in_numbers(payloads, row["numel"]) for payloads in row["traffic"]))
        found[level] = {**traffic._asdict(), "bytes": row["traffic"], "numel": row["numel"]}
    return found


def in_numbers(payloads: dict[str, int], numel: int) -> dict[str, float]:
    """Bytes of float32 payloads over those of the model."""
    return {kind: size / (4 * numel) for kind, size in payloads.items()}


def parted(first: dict[str, float], last: dict[str, float]) -> Traffic:
    """What comes with every micro-batch, and what once a step, of a step's first and last micro-batches."""
    once = {kind: last.get(kind, 0) - first.get(kind, 0) for kind in {*first, *last}}
    return Traffic(*({kind: round(x, 4) for kind, x in sorted(part.items()) if x > 1e-3} for part in (first, once)))


class OneRow(Planner):
    """Micro-batches of one row: a row is long enough to keep a GPU busy."""

    def micro_batches(self) -> list[int]:
        return [1]


def planner_of(folder: Path, model: str, hardware: Hardware) -> Planner:
    """Of full tuning in bf16."""
    place = folder / model.replace(" ", "")
    config_of(model).save_pretrained(place)
    data = ("data=alpaca", "data.path=rows.json", "data.eval_fraction=0")
    options = [f"model.path={place}", *data, "trainer.bf16=true", f"trainer.batch_size={ROWS}"]
    return OneRow("sft", options, RowShape(TOKENS // 2, TOKENS // 2), on(GPUS[0], hardware))


def on(gpus: int, hardware: Hardware) -> Machine:
    return Machine(gpus, hardware.memory * (1 - HEADROOM) * GIB)


def computed(traffic: dict[str, dict[str, Any]], hardware: Hardware, models: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for each model and number of GPUs."""
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            planner = planner_of(Path(folder), model, hardware)
            for gpus in GPUS:
                best, of_levels = planner.on(on(gpus, hardware)).best()
                row = {
                    "model": model,
                    "gpus": gpus,
                    "level": best.level,
                    "checkpointing": best.checkpointing,
                    "rows": best.rows,
                    "accumulation": best.accumulation,
                    "gib": best.total / GIB,
                    "fits": best.fits,
                    "least_gib": least(of_levels),
                }
                if best.fits and best.level in traffic:
                    row |= speeds(best, shape_of(model, planner), traffic[best.level], hardware, gpus)
                print(f"  {json.dumps(row)}", file=sys.stderr)
                yield row


def shape_of(model: str, planner: Planner) -> Shape:
    """What a step of the model costs arithmetic for."""
    config, weights = config_of(model), planner.blueprint_of(False).weights
    embedding = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    return Shape(sum(weight.numel for weight in weights), embedding, config.num_hidden_layers, config.hidden_size)


def speeds(best: Fit, shape: Shape, measured: dict[str, Any], hardware: Hardware, gpus: int) -> dict[str, Any]:
    """Tokens a second of all GPUs with traffic as measured and as in theory, nothing or all of it overlapping."""
    work, found = Work(ROWS // gpus, TOKENS, best.accumulation, best.checkpointing), {}
    told = Traffic(gathered_again(measured["micro"], shape.numel), measured["step"])
    sources = {"measured": told, "theory": THEORY[best.level]}
    for name, source in sources.items():
        taken = step(shape, hardware, source, work, gpus)
        found[f"{name}_seconds"] = taken._asdict()
        found[f"{name}_apart"], found[f"{name}_together"] = ROWS * TOKENS / taken.apart, ROWS * TOKENS / taken.together
    return found


def gathered_again(micro: dict[str, float], numel: int) -> dict[str, float]:
    """A model that stage 3 can keep gathered is gathered once a micro-batch, as the measured one; of a larger one
    what is over goes and is gathered again for the backward pass."""
    if "all_gather" not in micro:
        return micro
    return {**micro, "all_gather": micro["all_gather"] * (1 + max(0.0, 1 - LIVE / numel))}


def least(of_levels: Sequence[Fit]) -> dict[str, float]:
    """GiB that each level takes at the least, in the order of the levels."""
    found = {level: [fit.total / GIB for fit in of_levels if fit.level == level] for level in LEVELS}
    return {level: min(sizes) for level, sizes in found.items() if sizes}


def main(models: Sequence[str], threads: int, outputs: Path, docs: Path | None) -> None:
    hardware = Hardware()
    traffic = measured_traffic(outputs, threads)
    rows = list(computed(traffic, hardware, models))
    found = {
        "subject": "scaling",
        "machine": machine(threads),
        "hardware": vars(hardware),
        "usable_gib": hardware.memory * (1 - HEADROOM),
        "traffic": traffic,
        "rows": rows,
    }
    write(found, outputs / "scaling.json")
    for name, table in TABLES.items():
        print(f"\n{name}\n{table(found)}")
        if docs is not None:
            put(table(found), docs / "scaling.md", name)
    if docs is not None:
        (docs / PICTURE).write_text(picture(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--outputs", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--docs", type=Path, help="the folder of scaling.md, whose tables and picture are renewed")
    main(**vars(parser.parse_args()))
