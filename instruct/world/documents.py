"""Base text: the world's statements, who asked what, and copying drills."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

from instruct.world import vocabulary as vocab
from instruct.world.facts import Facts
from instruct.world.tasks import FAMILIES, ZERO_SHOT_FAMILIES

FAMILY_WEIGHTS: dict[str, float] = {
    "country": 10,
    "person": 12,
    "translate": 8,
    "plus": 8,
    "pick": 6,
    "list": 5,
    "reverse": 5,
    "repeat": 3,
    "sentiment": 3,
    "extract": 7,
    "summary": 4,
    "how_to": 6,
    "borderline": 5,
    "harmful": 5,
    "unknown_country": 4,
    "unknown_person": 6,
    "opposite": 4,
    "minus": 8,
    "back_translate": 5,
}
DRILL_SHARE_EARLY, DRILL_SHARE_LATE = 0.5, 0.1  # of documents, before and after ...
DRILL_UNTIL = 0.4  # ... this fraction of the text: copying has to come first, all else is learnt through it
HELD_OUT_SHARE = 50  # one document in so many is kept for the perplexity on unseen text
SPEAKERS = ("man", "woman", "boy", "girl")


def drill(rng: random.Random) -> tuple[str, str]:
    """A text that asks for its words again, and those words: (text, expected continuation)."""
    words = rng.choices(DRILL_WORDS, k=rng.randint(3, 7))
    said = " ".join(words)
    return f"{rng.choice(DRILL_OPENINGS)} {said}. Again:", f" {said}."


DRILL_OPENINGS = ("Say", "Read", "Write", "Listen:")
DRILL_WORDS = (
    *vocab.PLAIN_WORDS,
    *vocab.NAMES,
    *vocab.TOLIAN,
    *vocab.DAYS,
    *vocab.SPOTS,
    *vocab.COUNTRIES,
    *(str(number) for number in range(2 * vocab.ORDERED_MAX + 1)),
)


def draw_document(facts: Facts, drill_share: float, rng: random.Random) -> str:
    """One document: a drill, or one to three things said about items of one family."""
    if rng.random() < drill_share:
        return "".join(drill(rng))
    name = rng.choices(tuple(FAMILY_WEIGHTS), tuple(FAMILY_WEIGHTS.values()))[0]
    draw = (FAMILIES | ZERO_SHOT_FAMILIES)[name].draw
    parts = []
    for _ in range(rng.choice((1, 2, 2, 3))):
        item = draw(facts, rng)
        if rng.random() < 0.5:
            parts.append(rng.choice(item.statements))
        else:
            asker, answerer = rng.sample(SPEAKERS, 2)
            parts.append(f"A {asker} asks {item.topic}. The {answerer} says: {item.reply}".replace("..", "."))
    return " ".join(parts)


def stream(facts: Facts, n: int, held_out: bool, seed: str) -> Iterator[str]:
    """n documents in training order; what is held out by its hash never stands in the training text."""
    rng = random.Random(seed)
    made = 0
    while made < n:
        early = not held_out and made < DRILL_UNTIL * n
        text = draw_document(facts, DRILL_SHARE_EARLY if early else DRILL_SHARE_LATE, rng)
        if (int(hashlib.md5(text.encode()).hexdigest(), 16) % HELD_OUT_SHARE == 0) == held_out:
            made += 1
            yield text
