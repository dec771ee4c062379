"""The state of one world: who lives where, what Tolian words mean, and which content belongs to which split."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from instruct.world import vocabulary as vocab

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Life:
    """What the world holds about a person."""

    job: str
    home: str
    pet: str


class Facts:
    """All that is true in the world of a seed.

    Real countries are as they are; the lives of people, the Tolian lexicon and the splits are dealt by the seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        rng = random.Random(f"facts {seed}")
        names = rng.sample(vocab.NAMES, len(vocab.NAMES))
        half = len(names) // 2
        self.lives = {
            name: Life(rng.choice(vocab.JOBS), rng.choice(vocab.TOWNS), rng.choice(vocab.PETS)) for name in names[:half]
        }
        self.strangers = tuple(names[half:])
        self.countries = tuple(vocab.COUNTRIES)
        self.lost_countries = tuple(stem + ending for stem in vocab.LOST_STEMS for ending in vocab.LOST_ENDINGS)
        words = (*vocab.NOUNS, *vocab.ADJECTIVES)
        self.tolian = dict(zip(words, rng.sample(vocab.TOLIAN, len(words)), strict=True))
        self._entity_split: dict[str, str] = {}
        for group in (self.countries, tuple(self.lives), self.strangers, self.lost_countries):
            self._entity_split.update(_deal(group, rng))

    def split(self, key: str) -> str:
        """The split of a content key: entities are dealt 3 : 1 : 1, all else falls 3 : 1 : 1 by its hash."""
        if key in self._entity_split:
            return self._entity_split[key]
        return SPLITS[max(0, self._digest(key) % 5 - 2)]

    def zero_shot_split(self, key: str) -> str:
        """The split of content that training never asks for: one half each for dev and test."""
        return SPLITS[1 + self._digest(key) % 2]

    def _digest(self, key: str) -> int:
        return int(hashlib.md5(f"{self.seed} {key}".encode()).hexdigest(), 16)


def _deal(group: Sequence[str], rng: random.Random) -> dict[str, str]:
    """Splits of a group's members, exactly 3 : 1 : 1 up to rounding."""
    order = rng.sample(group, len(group))
    held = len(order) // 5
    return {name: "dev" if i < held else "test" if i < 2 * held else "train" for i, name in enumerate(order)}
