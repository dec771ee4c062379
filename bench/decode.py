"""Sampling against transformers' generate: python -m bench.decode

The same greedy decoding of the same prompts by a Llama of 10 M parameters, in turns in one process: `models.generation`
and `model.generate`, which is given left-padded batches. In `equal` every response has all its tokens. In `uneven`
responses end where one token of 32 is met (a geometric length, cut off at the most), and there are twice as many
prompts as places in a batch: `generate` goes on until the last row of a batch is done. A rate counts tokens of
responses over seconds that pass, the prompts' included; on a machine that others use, the ratio of processor seconds
is the one to read.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from bench.harness import machine, write
from bench.material import SIZES, llama
from models.generation import sample

MEAN_LENGTH = 32  # of uneven responses that nothing cuts off
PROMPT, NEW = 100, 64  # tokens of a prompt, give or take a fifth in `uneven`, and at most of a response
KINDS = ("equal", "uneven", "grouped")
GROUP = 8  # responses a prompt in `grouped`
QUICK = {"size": "tiny", "prompt": 10, "new": 8}
SAME = 0.99  # rows of both sides that must be equal: in float32 rounding decides a near tie now and then


class Work(NamedTuple):
    """What both sides do."""

    kind: str
    model: PreTrainedModel
    prompts: list[list[int]]
    ends: list[int]
    new: int
    batch: int


class Time(NamedTuple):
    seconds: float
    cpu_seconds: float
    decoding: float  # CPU seconds after the first token


def ours(work: Work) -> list[list[int]]:
    found = sample(
        work.model,
        work.prompts,
        max_new_tokens=work.new,
        ends=work.ends,
        temperature=0,
        batch_size=work.batch,
    )
    return [s.ids for s in found]


def generate(work: Work) -> list[list[int]]:
    """Batch after batch, each response cut where it ended."""
    found: list[list[int]] = []
    for start in range(0, len(work.prompts), work.batch):
        prompts = work.prompts[start : start + work.batch]
        longest = max(map(len, prompts))
        output = work.model.generate(
            torch.tensor([[0] * (longest - len(p)) + p for p in prompts]),
            attention_mask=torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts]),
            max_new_tokens=work.new,
            do_sample=False,
            eos_token_id=work.ends or None,
            pad_token_id=0,
        )
        found += [until(row, work.ends) for row in output[:, longest:].tolist()]
    return found


def until(row: list[int], ends: Sequence[int]) -> list[int]:
    """The row to its first end, that included."""
    return row[: next((i + 1 for i, token in enumerate(row) if token in ends), len(row))]


def work_of(model: PreTrainedModel, batch: int, kind: str, prompt: int, new: int) -> Work:
    rng, vocabulary = random.Random(batch), model.config.vocab_size
    spread = prompt // 5 if kind == "uneven" else 0
    n_prompts = {"equal": batch, "uneven": 2 * batch, "grouped": batch // GROUP}[kind]
    sizes = [prompt + rng.randint(-spread, spread) for _ in range(n_prompts)]
    prompts = [[rng.randrange(1, vocabulary) for _ in range(size)] for size in sizes]
    prompts = [p for p in prompts for _ in range(GROUP if kind == "grouped" else 1)]
    ends = rng.sample(range(1, vocabulary), vocabulary // MEAN_LENGTH) if kind == "uneven" else []
    return Work(kind, model, prompts, ends, new, batch)


def timed(side: Callable[[Work], list[list[int]]], work: Work) -> tuple[list[list[int]], tuple[float, float]]:
    """What the side gives, and the seconds that passed and that the processor worked."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = side(work)
    return found, (time.perf_counter() - wall, time.process_time() - cpu)


def race(work: Work, repetitions: int) -> dict[str, Any]:
    """Rates of both sides and their ratios, of medians."""
    sides = {"ours": ours, "generate": generate}
    taken: dict[str, list[Time]] = {name: [] for name in sides}
    for _ in range(repetitions):
        found = {}
        for name, side in sides.items():
            found[name], whole = timed(side, work)
            _, first = timed(side, work._replace(new=1))
            taken[name].append(Time(*whole, whole[1] - first[1]))
        same = sum(a == b for a, b in zip(*found.values(), strict=True)) / len(work.prompts)
        if same < SAME:
            sys.exit(f"error: {1 - same:.0%} of the responses differ from generate's")
    tokens = sum(map(len, found["generate"]))
    wall, cpu, decoding = ({name: median(t[i] for t in times) for name, times in taken.items()} for i in range(3))
    return {
        "batch": work.batch,
        "kind": work.kind,
        "responses": len(work.prompts),
        "tokens": tokens,
        "tokens_per_second": {name: tokens / seconds for name, seconds in wall.items()},
        "ratio": wall["generate"] / wall["ours"],
        "ratio_of_cpu_seconds": cpu["generate"] / cpu["ours"],
        "ratio_after_the_first_token": decoding["generate"] / decoding["ours"],
        "repetitions": {name: [t._asdict() for t in times] for name, times in taken.items()},
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    head = "| batch | kind | ours, tokens/s | generate, tokens/s | ratio | of CPU seconds | after the first token |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for row in rows:
        rates = " | ".join(f"{rate:.0f}" for rate in row["tokens_per_second"].values())
        names = ("ratio", "ratio_of_cpu_seconds", "ratio_after_the_first_token")
        ratios = " | ".join(f"{row[name]:.2f}" for name in names)
        lines.append(f"| {row['batch']} | {row['kind']} | {rates} | {ratios} |")
    return "\n".join(lines)


def main(quick: bool, batches: list[int], kinds: list[str], repetitions: int, threads: int, outputs: Path) -> None:
    about = machine(threads)
    torch.set_num_threads(threads)
    size, prompt, new = QUICK.values() if quick else ("10m", PROMPT, NEW)
    # Weights so wide that greedy text does not run in circles.
    model, rows = llama(SIZES[size], initializer_range=0.1).eval(), []
    cells = [(GROUP, kind) for kind in KINDS] if quick else [(batch, kind) for batch in batches for kind in kinds]
    for batch, kind in [(batch, kind) for batch, kind in cells if kind != "grouped" or batch >= GROUP]:
        rows.append(race(work_of(model, batch, kind, prompt, new), 1 if quick else repetitions))
        print("  " + table(rows[-1:]).splitlines()[-1], file=sys.stderr)
        write({"subject": "decode", "machine": about, "rows": rows}, outputs / "decode.json")
    print(table(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model, once: does it run at all?")
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8, 32, 64])
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--outputs", type=Path, default=Path("outputs/bench"))
    main(**vars(parser.parse_args()))
