"""The peer: GRPOTrainer or RLOOTrainer. python -m bench.trl_group <grpo or rloo> <material> <folder> <options>

material: what bench.rollout_material wrote; options: of GRPOConfig or RLOOConfig, in JSON, and beside them `replay`
(take the recorded responses instead of sampling, and score their ids as they are) and `limit` (the first prompts
alone). Writes outcome.json into the folder.

Else the reward model is given as their documentation gives it: it reads the decoded text, tokenised anew.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from bench.clock import Clock
from bench.recorded import Recorded

TRAINERS = {"grpo": (GRPOConfig, GRPOTrainer), "rloo": (RLOOConfig, RLOOTrainer)}
NO_SPEED = {  # what has nothing to do with speed
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "use_cpu": True,
}


def main(algorithm: str, material: Path, folder: Path, given: dict[str, Any]) -> None:
    replay, limit = given.pop("replay", False), given.pop("limit", None)
    config, trainer_of = TRAINERS[algorithm]
    scorer = AutoModelForSequenceClassification.from_pretrained(material / "scorer")
    prompts = json.loads((material / "prompts.json").read_text())
    columns = {"prompt": prompts["conversations"][:limit], "ids": prompts["ids"][:limit]}
    trainer = trainer_of(
        model=str(material / "model"),
        reward_funcs=by_ids(scorer) if replay else scorer,
        args=config(output_dir=str(folder), **NO_SPEED, **given),
        train_dataset=datasets.Dataset.from_dict(columns),
        processing_class=AutoTokenizer.from_pretrained(material / "model"),
    )
    if replay:
        take_recorded(trainer, material, pair=algorithm == "grpo")
    clock = watched(trainer)
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    steps = [line for line in trainer.state.log_history if "loss" in line]
    outcome = {name: [step[key] for step in steps] for name, key in (("losses", "loss"), ("grad_norms", "grad_norm"))}
    outcome |= {"seconds": seconds, "parts": clock.parts(seconds)}
    (folder / "outcome.json").write_text(json.dumps(outcome))
    (folder / "rollouts.json").write_text(json.dumps(steps))


def watched(trainer: GRPOTrainer | RLOOTrainer) -> Clock:
    """A clock around what a rollout consists of. The other forwards and the backward passes are the update."""
    clock = Clock()
    clock.watch(
        trainer,
        {
            "_generate": lambda *_: "rollout",
            "_calculate_rewards": lambda *_: "scoring",
            "_get_per_token_logps_and_entropies": lambda *_, **__: None if torch.is_grad_enabled() else "evaluation",
        },
    )
    return clock


def by_ids(scorer: PreTrainedModel) -> Any:
    """A reward function that reads the very ids which were sampled."""

    @torch.no_grad()
    def score(completion_ids: Sequence[list[int]], ids: Sequence[list[int]], **_: object) -> list[float]:
        whole = [torch.tensor(prompt + response) for prompt, response in zip(ids, completion_ids, strict=True)]
        padded = torch.nn.utils.rnn.pad_sequence(whole, batch_first=True, padding_value=scorer.config.pad_token_id)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in whole], batch_first=True)
        return scorer(input_ids=padded, attention_mask=mask).logits[:, 0].tolist()

    return score


def take_recorded(trainer: GRPOTrainer | RLOOTrainer, material: Path, *, pair: bool) -> None:
    """Recorded responses in the place of sampling. pair: the trainer expects log-probabilities beside them, or None."""
    recorded = Recorded(material)

    def responses(prompt_ids: Sequence[list[int]], *_: object, **__: object) -> Any:
        found = [recorded.next(prompt) for prompt in prompt_ids]
        return (found, None) if pair else found

    trainer._generate_single_turn = responses


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4]))
