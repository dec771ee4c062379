"""The peer on the embedded world: TRL's PPOTrainer. python -m bench.trl_world <base> <folder> <options>

base: the folder of a chain, with sft and reward; options: of PPOConfig, in JSON, and beside them `world` (its seed) and
`looks` (how many held-out prompts are answered after every rollout; their time is not counted). Writes looks/ as
stages.ppo does, and seconds.json: of training, until each look.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer

from bench.one_label import one_label
from bench.trl_ppo import NO_SPEED
from instruct.prompts import PromptData
from instruct.sources import prompts
from models.chat import ChatFormat, Prompt
from models.generation import end_tokens, sample
from models.loading import ModelConfig, load_policy, load_scorer


def main(base: Path, folder: Path, given: dict[str, Any]) -> None:
    world, n_looks = given.pop("world"), given.pop("looks")
    policy, tokenizer = load_policy(str(base / "sft" / "model"), ModelConfig())
    reward, value = (one_label(load_scorer(str(base / "reward" / "model"), ModelConfig())[0]) for _ in range(2))
    chat = ChatFormat(tokenizer)
    data = prompts(PromptData(path="world", seed=world))
    looks = Looks(folder, data.eval[:n_looks], chat, given["response_length"], end_tokens(policy, tokenizer, chat))
    trainer = PPOTrainer(
        args=PPOConfig(output_dir=str(folder), stop_token="eos", **NO_SPEED, **given),
        processing_class=ending_turns(tokenizer, chat),
        model=policy,
        ref_model=None,
        reward_model=reward,
        value_model=value,
        train_dataset=datasets.Dataset.from_dict({"input_ids": [chat.prompt(prompt) for prompt in data.train]}),
        callbacks=[looks],
    )
    trainer.train()
    (folder / "seconds.json").write_text(json.dumps(looks.seconds))


def ending_turns(tokenizer: PreTrainedTokenizerBase, chat: ChatFormat) -> PreTrainedTokenizerBase:
    """The tokenizer as TRL wants it: what ends a turn is its end of text, and prompts are padded on the left."""
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(chat.end_ids[-1])
    tokenizer.padding_side = "left"
    return tokenizer


class Looks(TrainerCallback):
    """Answers to held-out prompts before the first rollout and after each, and the seconds of what lies between."""

    def __init__(self, folder: Path, asked: list[Prompt], chat: ChatFormat, length: int, ends: set[int]) -> None:
        self.folder, self.asked, self.chat, self.length, self.ends = folder / "looks", asked, chat, length, ends
        self.folder.mkdir(parents=True)
        self.seconds: list[float] = []

    def on_train_begin(self, args: object, state: object, control: object, **kwargs: Any) -> None:
        self.look(kwargs["model"].policy)

    def on_step_end(self, args: object, state: object, control: object, **kwargs: Any) -> None:
        self.seconds.append(self.seconds[-1] + time.perf_counter() - self.since)
        self.look(kwargs["model"].policy)

    def look(self, policy: Any) -> None:
        """Sample as stages.ppo does, and let the clock go on afterwards."""
        self.seconds = self.seconds or [0.0]
        number = len(self.seconds) - 1
        prompts = [self.chat.prompt(prompt) for prompt in self.asked]
        generator = torch.Generator().manual_seed(number)
        samples = sample(
            policy, prompts, max_new_tokens=self.length, ends=self.ends, temperature=1.0, generator=generator
        )
        answers = [
            {"prompt": prompt[-1].content, "text": self.chat.text(s.ids), "ended": s.ended}
            for prompt, s in zip(self.asked, samples, strict=True)
        ]
        (self.folder / f"{number}.json").write_text(json.dumps({"iteration": number, "answers": answers}))
        self.since = time.perf_counter()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
