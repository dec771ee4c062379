"""The world of a seed: its base text, tasks, demonstrations and made responses."""

from __future__ import annotations

import random

from instruct.world import responses
from instruct.world.documents import drill, stream
from instruct.world.facts import Facts
from instruct.world.tasks import FAMILIES, ZERO_SHOT_FAMILIES, Task, draw_tasks, task_of


class World:
    """A small generated world in which the truth of every answer is known; the same seed gives the same text."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.facts = Facts(seed)

    def documents(self, n: int) -> list[str]:
        """Base text in training order (do not shuffle: copying drills come first)."""
        return list(stream(self.facts, n, held_out=False, seed=f"documents {self.seed}", drills_first=True))

    def replay(self, n: int) -> list[str]:
        """Base text as ``documents`` has late in training: to keep what was learnt while something else is."""
        return list(stream(self.facts, n, held_out=False, seed=f"replay {self.seed}"))

    def held_out_documents(self, n: int) -> list[str]:
        """Text as ``documents`` has late in training, but none of it ever in ``documents``."""
        return list(stream(self.facts, n, held_out=True, seed=f"held out {self.seed}"))

    def copy_probes(self, n: int) -> list[tuple[str, str]]:
        """(text, expected continuation) of random words that have to be said again."""
        rng = random.Random(f"copy {self.seed}")
        return [drill(rng) for _ in range(n)]

    def tasks(self, split: str, n_per_family: int) -> list[Task]:
        """Up to ``n_per_family`` distinct prompts of each family that is trained on, families in turn."""
        return draw_tasks(self.facts, FAMILIES, split, n_per_family, f"tasks {self.seed}")

    def zero_shot_tasks(self, split: str, n_per_family: int) -> list[Task]:
        """The same for the three families that no demonstration, ranking or rollout ever has."""
        return draw_tasks(self.facts, ZERO_SHOT_FAMILIES, split, n_per_family, f"zero shot {self.seed}")

    def demonstrations(self, n: int) -> list[tuple[Task, str]]:
        """Training tasks with answers that are flawed on purpose (shares in ``responses``), families in turn."""
        rng = random.Random(f"demonstrations {self.seed}")
        names = tuple(FAMILIES)
        pairs: list[tuple[Task, str]] = []
        while len(pairs) < n:
            name = names[len(pairs) % len(names)]
            item = FAMILIES[name].draw(self.facts, rng)
            if self.facts.split(item.key) == "train":
                task = task_of(name, FAMILIES[name], item, "train", rng)
                pairs.append((task, responses.demonstrate(task, rng)))
        return pairs

    def variants(self, task: Task, rng: random.Random) -> list[tuple[str, str]]:
        """(kind, response): right, wrong and corrupted answers, whose corruption says nothing about correctness."""
        return responses.variants(task, rng)
