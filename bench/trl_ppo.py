"""The peer: PPOTrainer of the last TRL that had one. python -m bench.trl_ppo <material> <folder> <options>

material: what bench.rollout_material wrote; options: of PPOConfig, in JSON, and beside them `lora` (the rank of an
adapter, which makes the reference the same model without it), `replay` (take the recorded responses instead of
sampling) and `limit` (the first prompts alone). Writes outcome.json into the folder.

Its minibatches are steps of the optimizer only without gradient accumulation: accelerate counts micro-batches, and
steps once in `gradient_accumulation_steps` of them, whatever `num_mini_batches` says.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

from bench.clock import Clock
from bench.recorded import Recorded

NO_SPEED = {  # what has nothing to do with speed
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "use_cpu": True,
    "num_sample_generations": 0,
}


def main(material: Path, folder: Path, given: dict[str, Any]) -> None:
    rank, replay, limit = given.pop("lora", None), given.pop("replay", False), given.pop("limit", None)
    trainer = ppo(material, PPOConfig(output_dir=str(folder), **NO_SPEED, **given), rank, limit)
    if replay:
        ppo_trainer.batch_generation = replayed(material)
    clock = watched(trainer)
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    logged = [line for line in trainer.state.log_history if "objective/kl" in line]
    outcome = {"seconds": seconds, "losses": [], "grad_norms": [], "parts": clock.parts(seconds)}
    (folder / "outcome.json").write_text(json.dumps(outcome))
    (folder / "rollouts.json").write_text(json.dumps(logged))


def ppo(material: Path, arguments: PPOConfig, rank: int | None, limit: int | None) -> PPOTrainer:
    """Four models: policy, its copy as the reference, reward model, and a value model that starts as the latter."""
    reward, value = (AutoModelForSequenceClassification.from_pretrained(material / "scorer") for _ in range(2))
    prompts = json.loads((material / "prompts.json").read_text())["ids"][:limit]
    return PPOTrainer(
        args=arguments,
        processing_class=AutoTokenizer.from_pretrained(material / "model", padding_side="left"),
        model=AutoModelForCausalLM.from_pretrained(material / "model"),
        ref_model=None,
        reward_model=reward,
        value_model=value,
        train_dataset=datasets.Dataset.from_dict({"input_ids": prompts}),
        peft_config=LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear") if rank else None,
    )


def watched(trainer: PPOTrainer) -> Clock:
    """A clock around what a rollout consists of. The other forwards and the backward passes are the update."""
    clock = Clock()
    clock.watch(
        ppo_trainer,
        {
            "batch_generation": lambda *_: "rollout",
            "get_reward": lambda model, *_: "scoring" if model is trainer.reward_model else "evaluation",
            "forward": lambda *_: None if torch.is_grad_enabled() else "evaluation",
            "selective_log_softmax": lambda *_: None if torch.is_grad_enabled() else "evaluation",
        },
    )
    return clock


def replayed(material: Path) -> Callable[..., tuple[Tensor, Tensor]]:
    """Recorded responses in the place of `batch_generation`, with the logits that their sampling would have had."""
    recorded = Recorded(material)

    def responses(model: nn.Module, queries: Tensor, _: int, pad: int, __: object) -> tuple[Tensor, Tensor]:
        rows = [recorded.next(query[query != pad].tolist()) for query in queries]
        whole = torch.cat([queries, torch.tensor(rows)], 1)
        with torch.no_grad():
            return whole, ppo_trainer.forward(model, whole, pad).logits[:, queries.shape[1] - 1 : -1]

    return responses


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
