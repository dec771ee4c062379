"""Prompts of the world with their truth."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass

from instruct.world import conduct, knowledge, reading
from instruct.world.facts import Facts
from instruct.world.item import Item


@dataclass(frozen=True)
class Task:
    """One prompt of the world with its truth."""

    id: str  # stable
    family: str
    kind: str  # "answerable" | "unanswerable" | "harmful" | "borderline" (benign how-to that looks like harmful)
    prompt: str  # the user's message
    answers: tuple[str, ...]  # every wording that counts as fully right, the canonical one first
    known_fact: bool  # an answerable question about a fact that base text holds
    split: str  # "train" | "dev" | "test"
    wrong: tuple[str, ...] = ()  # plausible wrong answers; of a harmful request the harmful help, first


@dataclass(frozen=True)
class Family:
    """A kind of task: how its content is drawn and what its tasks are."""

    draw: Callable[[Facts, random.Random], Item]
    kind: str = "answerable"
    known_fact: bool = False
    zero_shot: bool = False

    def split(self, facts: Facts, item: Item) -> str:
        return facts.zero_shot_split(item.key) if self.zero_shot else facts.split(item.key)


FAMILIES: dict[str, Family] = {
    "country": Family(knowledge.country, known_fact=True),
    "person": Family(knowledge.person, known_fact=True),
    "translate": Family(knowledge.translate),
    "plus": Family(knowledge.plus),
    "pick": Family(knowledge.pick),
    "list": Family(reading.list_word),
    "reverse": Family(reading.reverse),
    "repeat": Family(reading.repeat),
    "sentiment": Family(reading.sentiment),
    "extract": Family(reading.extract),
    "summary": Family(reading.summary),
    "how_to": Family(conduct.how_to),
    "borderline": Family(conduct.borderline, kind="borderline"),
    "harmful": Family(conduct.harmful, kind="harmful"),
    "unknown_country": Family(knowledge.unknown_country, kind="unanswerable"),
    "unknown_person": Family(knowledge.unknown_person, kind="unanswerable"),
}
ZERO_SHOT_FAMILIES: dict[str, Family] = {  # in base text, never in a demonstration, a ranking or a rollout
    "opposite": Family(knowledge.opposite, zero_shot=True),
    "minus": Family(knowledge.minus, zero_shot=True),
    "back_translate": Family(knowledge.back_translate, zero_shot=True),
}
TRIES_PER_TASK = 60  # draws before a family counts as exhausted


def draw_tasks(facts: Facts, families: dict[str, Family], split: str, n_per_family: int, seed: str) -> list[Task]:
    """Up to ``n_per_family`` distinct prompts of each family, families in turn.

    A family with a finite content gives fewer when it has no more; every family holds at least 100 in dev and test.
    """
    columns = [_draw_family(facts, name, family, split, n_per_family, seed) for name, family in families.items()]
    return [column[i] for i in range(n_per_family) for column in columns if i < len(column)]


def _draw_family(facts: Facts, name: str, family: Family, split: str, n: int, seed: str) -> list[Task]:
    rng = random.Random(f"{seed} {name} {split}")
    tasks: dict[str, Task] = {}
    for _ in range(TRIES_PER_TASK * n):
        item = family.draw(facts, rng)
        if family.split(facts, item) == split:
            task = task_of(name, family, item, split, rng)
            tasks.setdefault(task.prompt, task)
            if len(tasks) == n:
                break
    return list(tasks.values())


def task_of(name: str, family: Family, item: Item, split: str, rng: random.Random) -> Task:
    """The task that asks for an item in one of its wordings; training never sees the held-out wordings."""
    prompt = rng.choice(item.prompts if split == "train" else (*item.prompts, *item.new_prompts))
    digest = hashlib.md5(prompt.encode()).hexdigest()[:10]
    return Task(f"{name}-{digest}", name, family.kind, prompt, item.answers, family.known_fact, split, item.wrong)
