"""Small data files in the words of the tiny models' tokenizers, and the options that make a stage small."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NAMES = ("peru", "spain", "chad", "nepal", "fiji", "togo", "oman", "cuba", "mali", "iraq", "laos", "iran")
INSTRUCTIONS = [
    {
        "instruction": f"what is the capital of {name} {i} ?",
        "input": "please" if i % 3 else "",
        "output": f"the capital of {name} is " + "lima " * (1 + i % 4) + ".",
    }
    for i, name in enumerate(NAMES * 2)
]
PAIRS = [
    {
        "prompt": f"how do i get to {name} {i} ?",
        "chosen": f"first get the key of {name} .",
        "rejected": "i cannot help with that . " * (1 + i % 2),
    }
    for i, name in enumerate(NAMES * 2)
]
RANKINGS = [
    {
        "prompt": f"what is {i} + 4 in {name} ?",
        "responses": [
            {"text": f"{i} + 4 = {i + 4} .", "scores": {"helpful": 1.0, "honest": 1.0, "harmless": 1.0}},
            {"text": "i do not know .", "scores": {"helpful": 0.2, "honest": 0.9, "harmless": None}},
            {"text": f"the capital of {name} .", "scores": {"helpful": 0.0, "honest": 0.1, "harmless": 0.5}},
        ],
    }
    for i, name in enumerate(NAMES * 2)
]
PROMPTS = [{"prompt": f"what is the capital of {name} ?"} for name in NAMES]

STEPS = ("trainer.max_steps=2", "trainer.batch_size=4", "trainer.learning_rate=1e-3", "trainer.log_every=1")
ROLLOUTS = (
    "rl.rollouts=1",
    "rl.prompts=4",
    "rl.epochs=1",
    "rl.max_new_tokens=5",
    "rl.evaluation_prompts=2",
    "data.eval_fraction=0.25",
    "trainer.batch_size=2",
    "trainer.log_every=1",
)


def written(path: Path, rows: Iterable[dict[str, Any]]) -> str:
    """The rows as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def saved(folder: Path, name: str, content: bytes | str) -> Path:
    """A file of exactly this content."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def sft(folder: Path, model: str | Path, data: str | Path, *options: str) -> tuple[str, ...]:
    """Options of an SFT run on Alpaca rows with its outputs below `folder`."""
    return ("data=alpaca", f"data.path={data}", f"model.path={model}", f"outputs={folder / 'out'}", *STEPS, *options)
