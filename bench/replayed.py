"""`stages.ppo`, but with recorded responses: python -m bench.replayed <material> <options of stages.ppo>

So that both sides of a comparison learn from the same ones.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from bench.recorded import Recorded
from models.generation import Sample
from rl.samplers import HFSampler
from stages.ppo import PPOStage, run
from train.entry import start


def replay(material: Path) -> None:
    """Put recorded responses in the place of sampled ones."""
    recorded = Recorded(material)

    def generate(
        _: HFSampler, policy: PreTrainedModel, prompts: Sequence[list[int]], n: int, rows: Sequence[torch.Generator]
    ) -> list[Sample]:
        found = [recorded.next(prompt) for prompt in prompts for _ in range(n)]
        return [Sample(ids, ended=False, logprobs=[0.0] * len(ids)) for ids in found]

    HFSampler.generate = generate


if __name__ == "__main__":
    replay(Path(sys.argv.pop(1)))
    start("ppo", PPOStage, run)
