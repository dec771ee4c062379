"""PPO without a critic against TRL's trainers: python -m bench.group

GRPO and RLOO, eight responses a prompt, KL on. Both sides train a Llama of 10 M parameters on the same prompts of
hh-rlhf with a reward model of the same size: as many rollouts and steps, responses that all have the same length, the
same rates and coefficients. Ours is `python -m stages.ppo rl.algorithm=...`, with and without the prompt tree, and with
what it offers to spare memory. Of TRL there is the default, with only what must be equal set, and settings that its
documentation offers for speed. Before anything is timed both learn from the same recorded responses, and their losses
and gradients must agree.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.harness import Contestant, Work, python, results
from bench.rollout_race import KL, MICRO_BATCH, RATE, REPLAYED, alike, arguments, ours, peer_replaying, replaying, run
from bench.sides import Settings, trl_side

ROLLOUTS, PROMPTS, SAMPLES = 2, 8, 8
FOR_SPEED: dict[str, Settings] = {
    "no checkpointing": {"gradient_checkpointing": False},
    "micro-batches of 4": {"gradient_checkpointing": False, "per_device_train_batch_size": 4},
    "micro-batches of 16": {"gradient_checkpointing": False, "per_device_train_batch_size": 16},
}
OWN = {"rloo": ("rl.aggregation=seq_mean_token_sum",)}  # RLOOTrainer adds the tokens of a response up
ALGORITHMS = ("grpo", "rloo")

WITHOUT_TREE = "ours, no tree"
SPARING = "ours, sparing memory", ("trainer.gradient_checkpointing=true", "rl.sampler.batch_size=16")


def mine(algorithm: str, rollouts: int, prompts: int, length: int) -> list[str]:
    """The same amount of work: one optimizer step a rollout."""
    return [
        f"rl.algorithm={algorithm}",
        *OWN.get(algorithm, ()),
        f"rl.samples={SAMPLES}",
        f"rl.rollouts={rollouts}",
        f"rl.prompts={prompts}",
        "rl.epochs=1",
        f"rl.max_new_tokens={length}",
        "rl.score.clip=null",
        "rl.score.missing_end_penalty=0",
        "rl.kl.adaptive=false",
        f"rl.kl.coef={KL}",
    ]


def theirs(rollouts: int, prompts: int, length: int) -> Settings:
    """The same for TRL."""
    return {
        "max_steps": rollouts,
        "num_generations": SAMPLES,
        "generation_batch_size": prompts * SAMPLES,
        "max_completion_length": length,
        "beta": KL,
        "lr_scheduler_type": "constant",
    }


def accumulated(prompts: int, settings: Settings) -> Settings:
    """With as many micro-batches as make the step of a whole rollout."""
    rows = int(str(settings.get("per_device_train_batch_size", MICRO_BATCH)))
    return settings | {"gradient_accumulation_steps": prompts * SAMPLES // rows}


def peer_command(algorithm: str, material: Path, folder: Path, options: str) -> list[str]:
    return python("bench.trl_group", algorithm, str(material), str(folder), options)


def contestants(algorithm: str, quick: bool, material: Path, precision: str) -> list[Contestant]:
    work = (ROLLOUTS, PROMPTS, 8 if quick else 48)
    sides = [ours("ours", material, precision, work[1] * SAMPLES, mine(algorithm, *work))]
    if not quick:
        alone = ("layout.tree=false",)
        without = ours(WITHOUT_TREE, material, precision, work[1] * SAMPLES, mine(algorithm, *work), alone)
        name, less = SPARING
        sparing = ours(name, material, precision, work[1] * SAMPLES, mine(algorithm, *work), less)
        # Rounding may turn a token of their second rollout.
        sides += [replace(side, same_steps=False) for side in (without, sparing)]
    for name, settings in {"default": {}, **({} if quick else FOR_SPEED)}.items():
        equal = theirs(*work) | accumulated(work[1], settings)
        command = partial(peer_command, algorithm, material)
        sides.append(trl_side(name, precision, command, equal=equal, rate=RATE, settings=settings, same_steps=False))
    return sides


def agreement(algorithm: str, quick: bool, material: Path) -> Settings:
    """Differences of what a rollout of recorded responses and the step on it give."""
    work = (1, REPLAYED, 8 if quick else 48)
    steps = [line for line in replaying(material, REPLAYED * SAMPLES, mine(algorithm, *work)) if "loss" in line]
    told = peer_replaying(partial(peer_command, algorithm, material), theirs(*work) | accumulated(REPLAYED, {}))
    found = {name: steps[0][name] for name in ("loss", "grad_norm")}
    return alike(algorithm, found, {name: told[0][name] for name in found}, relative=("grad_norm",))


def judged(
    algorithm: str, sides: Sequence[Contestant], facts: dict[str, Any], peak: dict[str, float]
) -> dict[str, dict[str, Any]]:
    """One table."""
    forward = facts["forward"][str(SAMPLES)]
    flops = 6 * forward["body"] + 5 * forward["output"]  # sampling, reward, reference; a step, backward twice a forward
    return {algorithm: results(sides, Work(forward["samples"], forward["targets"], flops), peak)}


def main(given: argparse.Namespace) -> None:
    for algorithm in given.algorithms:
        run(
            algorithm,
            given,
            16 if given.quick else ROLLOUTS * PROMPTS,
            partial(contestants, algorithm, given.quick),
            partial(agreement, algorithm, given.quick),
            partial(judged, algorithm),
        )


if __name__ == "__main__":
    parser = arguments(__doc__ or "")
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    main(parser.parse_args())
