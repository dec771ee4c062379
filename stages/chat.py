"""Talk to a model in the terminal.

python -m stages.chat model.path=outputs/demo/ppo
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import torch

from models.chat import ChatFormat, Message
from models.errors import ConfigError
from models.generation import end_tokens, sample
from models.loading import ModelConfig, load_policy
from train.artifact import model_folder
from train.entry import start
from train.run import quiet_libraries


@dataclass
class ChatStage:
    """conf/chat.yaml"""

    model: ModelConfig = field(default_factory=ModelConfig)
    temperature: float = 0.0  # 0: the likeliest token every time
    max_new_tokens: int = 256
    system: str | None = None  # a system turn before the conversation
    seed: int = 0
    debug: bool = False  # show tracebacks

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ConfigError(f"temperature={self.temperature}: expected 0 or more")
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens={self.max_new_tokens}: expected at least 1")


def run(cfg: ChatStage) -> None:
    """Read a line, answer, until the input ends. `/new` forgets the conversation."""
    quiet_libraries()
    model, tokenizer = load_policy(model_folder(cfg.model.path, "policy"), cfg.model)
    chat, generator = ChatFormat(tokenizer), torch.Generator().manual_seed(cfg.seed)
    opening = (Message("system", cfg.system),) if cfg.system else ()
    turns = opening
    prompt = "you> " if sys.stdin.isatty() else ""
    while line := read_line(prompt):
        if line.strip() == "/new":
            turns = opening
            continue
        turns = (*turns, Message("user", line))
        [answer] = sample(
            model,
            [chat.prompt(turns)],
            max_new_tokens=cfg.max_new_tokens,
            ends=end_tokens(model, tokenizer, chat),
            temperature=cfg.temperature,
            generator=generator,
        )
        text = chat.text(answer.ids)
        print(text, flush=True)
        turns = (*turns, Message("assistant", text))


def read_line(prompt: str) -> str | None:
    """The next line that is not empty; None at the end of the input."""
    try:
        line = input(prompt)
        while not line.strip():
            line = input(prompt)
        return line
    except EOFError:
        return None


if __name__ == "__main__":
    start("chat", ChatStage, run)
