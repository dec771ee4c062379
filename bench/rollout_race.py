"""What bench.ppo and bench.group share: the material, both sides on the same responses, the command line."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.harness import ROOT, TOLERANCE, Contestant, machine, parts_table, peak_memory, python, race, table, write
from bench.sides import Settings, Steps, stage_side

DATA = Path(os.environ.get("HHH_REAL_DATA", ROOT / "../shared/data")) / "hh_harmless_pairs.jsonl"
RATE = 1e-5
KL = 0.05
MICRO_BATCH = 8  # responses that either side computes at once; TRL's own default
REPLAYED = 16  # prompts on which both sides are compared before anything is timed
SAME, RELATIVE = TOLERANCE["fp32"]  # what losses and scores may differ by there, and norms of gradients


def ours(
    name: str,
    material: Path,
    precision: str,
    minibatch: int,
    work: Sequence[str],
    more: Sequence[str] = (),
    module: str = "stages.ppo",
) -> Contestant:
    """`python -m stages.ppo` on the material. work: options that make it as much as the peer's."""
    reward = material / (
        "reward-lora" if "adapter=lora" in more else "reward"
    )  # an adapter shares the policy's backbone
    inputs = [f"model.path={material / 'model'}", f"reward.path={reward}", "data=prompts"]
    inputs += [f"data.path={material / 'prompts.jsonl'}", *work]
    steps = Steps(minibatch, RATE, minibatch // MICRO_BATCH)
    return stage_side(name, module, precision, stage="ppo", inputs=inputs, steps=steps, more=more)


def replaying(material: Path, minibatch: int, work: Sequence[str]) -> list[dict[str, Any]]:
    """What `stages.ppo` logs of a rollout and of each step that learn from the recorded responses."""
    limited = [f"data.limit={REPLAYED}", *work]
    side = ours("ours", material, "fp32", minibatch, limited, module="bench.replayed")
    with tempfile.TemporaryDirectory() as folder:
        command = side.command(Path(folder))
        module = command.index("bench.replayed")
        peak_memory([*command[: module + 1], str(material), *command[module + 1 :]], 1)
        return [json.loads(line) for line in (Path(folder) / "run/ppo/metrics.jsonl").read_text().splitlines()]


def peer_replaying(command: Callable[[Path, str], list[str]], options: Settings) -> list[dict[str, Any]]:
    """The same of the peer: what its trainer logs. command: from a folder and options in JSON."""
    given = {"bf16": False, "learning_rate": RATE, "replay": True, "limit": REPLAYED} | options
    with tempfile.TemporaryDirectory() as folder:
        peak_memory(command(Path(folder), json.dumps(given)), 1)
        return json.loads((Path(folder) / "rollouts.json").read_text())


def alike(subject: str, mine: dict[str, float], theirs: dict[str, float], relative: Sequence[str] = ()) -> Settings:
    """The differences. Exits where one is too large."""
    found: Settings = {}
    for name, value in mine.items():
        unit, at_most = (abs(theirs[name]), RELATIVE) if name in relative else (1.0, SAME)
        found[name] = difference = abs(value - theirs[name]) / unit
        if not difference <= at_most:
            sys.exit(f"error: {subject}: {name} of the same responses is {value} here and {theirs[name]} there")
    return found


def run(
    subject: str,
    given: argparse.Namespace,
    n_prompts: int,
    contestants: Callable[[Path, str], Sequence[Contestant]],
    agreement: Callable[[Path], Settings],
    judged: Callable[[Sequence[Contestant], dict[str, Any], dict[str, float]], dict[str, dict[str, Any]]],
) -> None:
    """Make the material, compare both sides on the same responses, let all race, write <outputs>/<subject>.json.

    contestants: of a precision. judged: results by what is compared, from contestants, facts and the matrix peak.
    """
    size, source = ("tiny", "made up") if given.quick else ("10m", str(DATA))
    if not given.quick and not DATA.is_file():
        sys.exit(f"error: {DATA}: no such file; set HHH_REAL_DATA to the folder of real data, or say --quick")
    material = given.outputs / f"material-{subject}-{size}"
    about = machine(given.threads)
    peak_memory(python("bench.rollout_material", str(material), source, str(n_prompts), size), given.threads)
    facts, peak = (json.loads((material / name).read_text()) for name in ("facts.json", "peak.json"))
    agreed = agreement(material)
    sides = [side for precision in given.precisions for side in contestants(material, precision)]
    beside = {"subject": subject, "machine": about, "matrix_peak_gflops": peak, "model_and_prompts": facts}

    def keep(_: dict[str, object]) -> None:
        write({**beside, "agreement": agreed, **judged(sides, facts, peak)}, given.outputs / f"{subject}.json")

    race(sides, 1 if given.quick else given.repetitions, given.threads, keep)
    for title, found in judged(sides, facts, peak).items():
        print(f"\n{title}\n\n{table(found)}\n\n{parts_table(found['rows'])}")


def arguments(about: str) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model, made-up prompts, once: does it run at all?")
    parser.add_argument("--precisions", nargs="*", default=["fp32"], choices=("fp32", "bf16"))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--outputs", type=Path, default=Path("outputs/bench"))
    return parser
