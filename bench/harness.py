"""Side by side: every repetition of every contestant in a process of its own, A B A B …; medians, a table, a file.

Nothing heavy is imported here: the kernel counts what a process held before it became another program.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
FIRST_STEPS = 5  # over which contestants must agree before anything is timed
TOLERANCE = {"fp32": (1e-4, 1e-3), "bf16": (2e-2, 5e-2)}  # of losses, absolute, and of gradient norms, relative


class Outcome(NamedTuple):
    """What a process reported of its training."""

    seconds: float  # from the first step to the last
    losses: list[float]  # of every step
    grad_norms: list[float]
    parts: dict[str, float] | None = None  # where the seconds went


@dataclass(frozen=True)
class Contestant:
    """One setting of one of the sides."""

    name: str
    precision: str  # fp32 or bf16; contestants of one precision are compared
    role: str  # ours, without (ours without a part), default (the peer as it comes) or setting (of the peer)
    settings: str  # for the reader
    command: Callable[[Path], list[str]]  # that trains and reports into an empty folder
    outcome: Callable[[Path], Outcome]  # reads the report
    same_steps: bool = True  # its steps are made of the same rows as the others'
    runs: list[tuple[Outcome, float]] = field(default_factory=list)  # with peak memory in MB

    @property
    def seconds(self) -> float:
        return median(outcome.seconds for outcome, _ in self.runs)

    @property
    def parts(self) -> dict[str, float]:
        """Medians of the seconds that went into each part; of a side that tells none, nothing."""
        told = [outcome.parts for outcome, _ in self.runs if outcome.parts]
        return {part: median(parts[part] for parts in told) for part in (told[0] if told else ())}

    @property
    def memory(self) -> float:
        return median(memory for _, memory in self.runs)


@dataclass(frozen=True)
class Work:
    """What one repetition does, whoever does it. FLOPs are those of the mathematics: no padding, nothing twice."""

    samples: int
    targets: int
    flops: float


class Failed(SystemExit):
    """A command that ended with another code than 0. Uncaught, it ends the benchmark with the command's last lines."""

    def __init__(self, command: Sequence[str], returncode: int, log: str) -> None:
        super().__init__(f"{log[-2000:]}\nerror: {' '.join(command)}: exit code {returncode}")
        self.returncode = returncode


def peak_memory(command: Sequence[str], threads: int) -> float:
    """Run a command to its end; the most memory its process held, in MB. Raises Failed."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "GOMP_SPINCOUNT": "10000",  # a benchmark has the machine to itself, on both sides
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": str(ROOT),
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),  # for ninja
    }
    with tempfile.TemporaryFile("w+") as log:
        child = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            log.seek(0)
            raise Failed(command, child.returncode, log.read())
    return usage.ru_maxrss / 1024


def python(module: str, *arguments: str) -> list[str]:
    """The command `python -m <module> <arguments>`."""
    return [sys.executable, "-m", module, *arguments]


def stage_outcome(folder: Path, stage: str) -> Outcome:
    """Of a stage that ran with outputs=<folder> name=run trainer.log_every=1."""
    logged = map(json.loads, (folder / "run" / stage / "metrics.jsonl").read_text().splitlines())
    parts: Counter[str] = Counter()
    lines = []
    for line in logged:
        parts.update({key.removeprefix("seconds/"): x for key, x in line.items() if key.startswith("seconds/")})
        lines += [line] if "loss" in line else []
    manifest = json.loads((folder / "run" / stage / "manifest.json").read_text())
    seconds = manifest["training_seconds"] + manifest.get("reference_seconds", 0.0)
    return Outcome(seconds, [x["loss"] for x in lines], [x["grad_norm"] for x in lines], dict(parts) or None)


def reported_outcome(folder: Path) -> Outcome:
    """Of a peer's script that wrote outcome.json."""
    return Outcome(**json.loads((folder / "outcome.json").read_text()))


def race(
    contestants: Sequence[Contestant], repetitions: int, threads: int, after_round: Callable[[dict[str, Any]], None]
) -> None:
    """Let each run, in turns. Once all have run they must agree; how closely is told after each round."""
    for turn in range(repetitions):
        for contestant in contestants:
            with tempfile.TemporaryDirectory() as folder:
                memory = peak_memory(contestant.command(Path(folder)), threads)
                outcome = contestant.outcome(Path(folder))
            contestant.runs.append((outcome, memory))
            name = f"{contestant.precision} {contestant.name}"
            print(f"  {turn + 1}/{repetitions} {name}: {outcome.seconds:.2f} s, {memory:.0f} MB", file=sys.stderr)
        after_round(agreement(contestants))


def agreement(contestants: Sequence[Contestant]) -> dict[str, Any]:
    """Largest difference of losses, and relative one of gradient norms, from ours. Exits where one is too large."""
    found: dict[str, Any] = {}
    for precision, (at_most, at_most_relative) in TOLERANCE.items():
        rivals = [c for c in contestants if c.precision == precision and c.same_steps]
        for contestant in [c for c in rivals if c.role != "ours"]:
            ours, theirs = (c.runs[0][0] for c in (next(c for c in rivals if c.role == "ours"), contestant))
            losses = list(zip(ours.losses, theirs.losses, strict=True))[:FIRST_STEPS]
            norms = list(zip(ours.grad_norms, theirs.grad_norms, strict=True))[:FIRST_STEPS]
            loss = max(abs(a - b) for a, b in losses)
            gradient = max(abs(a - b) / b for a, b in norms)
            if loss > at_most or gradient > at_most_relative:
                sys.exit(f"error: {precision} {contestant.name}: losses differ by {loss}, gradients by {gradient}")
            found[f"{precision} {contestant.name}"] = {"loss": loss, "grad_norm": gradient}
    return found


def results(contestants: Sequence[Contestant], work: Work, peak: dict[str, float]) -> dict[str, Any]:
    """Rows, and ours over the peer's default and its fastest setting, by precision and the smaller of them.

    peak: GFLOP/s of matrix products by precision.
    """
    rows = [
        {
            "name": c.name,
            "precision": c.precision,
            "role": c.role,
            "settings": c.settings,
            "samples_per_second": work.samples / c.seconds,
            "target_tokens_per_second": work.targets / c.seconds,
            "peak_memory_mb": c.memory,
            "share_of_matrix_peak": work.flops / c.seconds / (1e9 * peak[c.precision]),
            "parts": c.parts,
            "repetitions": [{"seconds": outcome.seconds, "peak_memory_mb": memory} for outcome, memory in c.runs],
        }
        for c in contestants
    ]
    ratios = {
        p: _ratios([c for c in contestants if c.precision == p])
        for p in dict.fromkeys(c.precision for c in contestants)
    }
    smallest = {name: min(ratio[name] for ratio in ratios.values()) for name in ("ratio_to_default", "ratio_to_best")}
    return {"rows": rows, "by_precision": ratios, **smallest}


def _ratios(rivals: Sequence[Contestant]) -> dict[str, Any]:
    ours = next(c for c in rivals if c.role == "ours")
    default = next(c for c in rivals if c.role == "default")
    best = min((c for c in rivals if c.role in ("default", "setting")), key=lambda c: c.seconds)
    return {
        "ratio_to_default": default.seconds / ours.seconds,
        "ratio_to_best": best.seconds / ours.seconds,
        "best": best.name,
        "memory_to_default": ours.memory / default.memory,
        "memory_to_best": ours.memory / best.memory,
    }


def machine(threads: int) -> dict[str, Any]:
    """Where and when: a share of the machine that others use makes every figure worth less, so its load is told."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    load = os.getloadavg()[0]
    return {"cpu": name, "threads": threads, "date": time.strftime("%Y-%m-%d"), "load_before": load}


def table(found: dict[str, Any]) -> str:
    """The rows in markdown, with the ratios below."""
    head = "| | settings | samples/s | target tokens/s | peak memory, MB | share of matrix peak |"
    lines = [head, "|---|---|---|---|---|---|"]
    for row in found["rows"]:
        numbers = f"{row['samples_per_second']:.1f} | {row['target_tokens_per_second']:.0f}"
        shares = f"{row['peak_memory_mb']:.0f} | {row['share_of_matrix_peak']:.2f}"
        lines.append(f"| {row['name']}, {row['precision']} | {row['settings']} | {numbers} | {shares} |")
    for precision, ratio in found["by_precision"].items():
        default = f"{ratio['ratio_to_default']:.2f} times the default at {ratio['memory_to_default']:.2f} of its memory"
        best = f"{ratio['ratio_to_best']:.2f} times the best ({ratio['best']}) at {ratio['memory_to_best']:.2f}"
        lines.append(f"\n{precision}: {default}, {best}")
    return "\n".join(lines)


def parts_table(rows: Sequence[dict[str, Any]]) -> str:
    """In markdown: the seconds of each row, and how many went where."""
    names = list(dict.fromkeys(part for row in rows for part in row["parts"]))
    lines = [f"| seconds | {' | '.join(names)} | all |", "|---|" + "---|" * (len(names) + 1)]
    for row in rows:
        seconds = median(repetition["seconds"] for repetition in row["repetitions"])
        cells = [f"{row['parts'][name]:.2f}" if name in row["parts"] else "" for name in names]
        lines.append(f"| {row['name']}, {row['precision']} | {' | '.join(cells)} | {seconds:.2f} |")
    return "\n".join(lines)


def write(found: dict[str, Any], place: Path) -> None:
    """The file, with its folder."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(found, indent=2) + "\n")
