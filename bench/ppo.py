"""PPO against the last TRL that had it: python -m bench.ppo

Both train a Llama of 10 M parameters on the same prompts of hh-rlhf with a reward model of the same size: as many
rollouts, epochs and steps, responses that all have the same length, the same rates and coefficients. Ours is `python -m
stages.ppo`, with four models, and with one backbone that policy, critic, reference and reward model share. Of TRL,
installed in a folder of its own, there is the default, with only what must be equal set, and settings that its
documentation offers for speed. Before anything is timed both learn from the same recorded responses, and their scores
and losses must agree.

TRL's PPOTrainer heeds no `bf16=True`, so its bf16 is that of `accelerate launch --mixed_precision bf16`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.environment import LAST_WITH_PPO, trl_release, within
from bench.harness import Contestant, Work, python, results
from bench.rollout_race import KL, RATE, REPLAYED, alike, arguments, ours, peer_replaying, replaying, run
from bench.sides import Settings, trl_side

ROLLOUTS, PROMPTS, EPOCHS = 2, 32, 2
VALUE_COEF = 0.5
SMALL = 8  # rows of a micro-batch of TRL's
SHARED = {  # options of what shares one backbone
    "ours, one backbone": ["adapter=lora"],
    "ours, one backbone and a value head": ["adapter=lora", "rl.critic=head"],
}
WITH_ADAPTER = "TRL, LoRA"
SAME_ALGORITHM = [
    "rl.score.clip=null",
    "rl.score.missing_end_penalty=0",
    "rl.kl.adaptive=false",
    f"rl.kl.coef={KL}",
    f"rl.value_coef={VALUE_COEF}",
    f"rl.critic_learning_rate={RATE}",
    "trainer.max_grad_norm=0",  # PPOTrainer clips no gradient
]


def mine(rollouts: int, prompts: int, epochs: int, length: int) -> list[str]:
    """The same amount of work."""
    return [
        f"rl.rollouts={rollouts}",
        f"rl.prompts={prompts}",
        f"rl.epochs={epochs}",
        f"rl.max_new_tokens={length}",
        *SAME_ALGORITHM,
    ]


def theirs(rollouts: int, prompts: int, epochs: int, length: int) -> Settings:
    """The same for TRL, whose own minibatch is a whole rollout."""
    return {
        "total_episodes": rollouts * prompts,
        "per_device_train_batch_size": prompts,
        "num_ppo_epochs": epochs,
        "response_length": length,
        "temperature": 1.0,
        "kl_coef": KL,
        "vf_coef": VALUE_COEF,
        "lr_scheduler_type": "constant",
    }


def peer_command(environment: Path, material: Path, precision: str, folder: Path, options: str) -> list[str]:
    """bench.trl_ppo in its environment."""
    mixed = {"ACCELERATE_MIXED_PRECISION": "bf16"} if precision == "bf16" else {}
    return within(environment, python("bench.trl_ppo", str(material), str(folder), options), **mixed)


def contestants(environment: Path, quick: bool, material: Path, precision: str) -> list[Contestant]:
    work = (ROLLOUTS, 8, 2, 8) if quick else (ROLLOUTS, PROMPTS, EPOCHS, 48)
    small: Settings = {"per_device_train_batch_size": SMALL, "gradient_accumulation_steps": work[1] // SMALL}
    settings: dict[str, Settings] = {
        "micro-batches of 8": small,
        "micro-batches and forwards of 8": small | {"local_rollout_forward_batch_size": SMALL},
        "LoRA": small | {"lora": 16},
    }
    sides = [ours("ours", material, precision, work[1], mine(*work))]
    for name, options in () if quick else SHARED.items():
        sides.append(replace(ours(name, material, precision, work[1], mine(*work), options), same_steps=False))
    for name, given in {"default": {}, **({} if quick else settings)}.items():
        command = partial(peer_command, environment, material, precision)
        side = trl_side(name, precision, command, equal=theirs(*work), rate=RATE, settings=given, same_steps=False)
        sides.append(side)
    return sides


def agreement(environment: Path, quick: bool, material: Path) -> Settings:
    """Differences of what one rollout of recorded responses and the steps on it give."""
    work = (1, REPLAYED, 3, 8 if quick else 48)
    logged = replaying(material, REPLAYED, mine(*work))
    [told] = peer_replaying(partial(peer_command, environment, material, "fp32"), theirs(*work))
    [rollout] = [line for line in logged if "objective/kl" in line]
    found = {
        "score": rollout["objective/score"],
        "kl": rollout["objective/kl"],
        "policy loss": rollout["policy/loss"],
        "value loss": rollout["value/loss"],
    }
    names = ("objective/scores", "objective/kl", "loss/policy_avg", "loss/value_avg")
    return alike("PPO", found, dict(zip(found, (told[name] for name in names), strict=True)))


def judged(
    epochs: int, sides: Sequence[Contestant], facts: dict[str, Any], peak: dict[str, float]
) -> dict[str, dict[str, Any]]:
    """The same algorithm against all that train every weight; one backbone against all."""
    forward = facts["forward"]["1"]
    body = 4 + 2 * 3 * epochs  # sampling, reward, reference, values; then policy and critic, backward twice a forward
    flops = body * forward["body"] + (2 + 3 * epochs) * forward["output"]
    work = Work(forward["samples"], forward["targets"], flops)
    peers = [side for side in sides if side.role in ("default", "setting")]
    whole = [side for side in sides if side not in peers and side.name not in SHARED]
    found = {"the same algorithm": results([*whole, *(p for p in peers if p.name != WITH_ADAPTER)], work, peak)}
    for side in [side for side in sides if side.name in SHARED]:
        found[side.name.removeprefix("ours, ")] = results([replace(side, role="ours"), *peers], work, peak)
    return found


def main(given: argparse.Namespace) -> None:
    environment = trl_release(LAST_WITH_PPO, given.environments or given.outputs)
    n_prompts = 16 if given.quick else ROLLOUTS * PROMPTS
    epochs = 2 if given.quick else EPOCHS
    run(
        "ppo",
        given,
        n_prompts,
        partial(contestants, environment, given.quick),
        partial(agreement, environment, given.quick),
        partial(judged, epochs),
    )


if __name__ == "__main__":
    parser = arguments(__doc__ or "")
    parser.add_argument("--environments", type=Path, help="where TRL's other release is or will be; default: outputs")
    main(parser.parse_args())
