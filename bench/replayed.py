"""`stages.ppo`, but with recorded responses: python -m bench.replayed <material> <options of stages.ppo>

So that both sides of a comparison learn from the same ones.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.recorded import Recorded
from models.generation import Sample
from rl.rollout import Answers, Question, RolloutEngine
from stages.ppo import PPOStage, run
from train.entry import start


def replay(material: Path) -> None:
    """Put recorded responses in the place of sampled ones."""
    recorded = Recorded(material)

    def generate(
        _: RolloutEngine, questions: Sequence[Question], n: int, generators: Sequence[torch.Generator]
    ) -> list[Answers]:
        return [Answers(q, [Sample(recorded.next(q.ids), ended=False) for _ in range(n)]) for q in questions]

    RolloutEngine.generate = generate


if __name__ == "__main__":
    replay(Path(sys.argv.pop(1)))
    start("ppo", PPOStage, run)
