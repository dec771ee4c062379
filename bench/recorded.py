"""Responses that both sides of a comparison learn from, in the place of sampled ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path


class Recorded:
    """What bench.rollout_material wrote: a prompt's responses one after another, then from the first again."""

    def __init__(self, material: Path) -> None:
        prompts = json.loads((material / "prompts.json").read_text())["ids"]
        responses = json.loads((material / "responses.json").read_text())
        self.left = {tuple(prompt): cycle(own) for prompt, own in zip(prompts, responses, strict=True)}

    def next(self, prompt: Sequence[int]) -> list[int]:
        return next(self.left[tuple(prompt)])
