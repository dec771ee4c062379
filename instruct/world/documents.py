"""Base text: the world's statements, who asked what, and copying drills."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

from instruct.world import vocabulary as vocab
from instruct.world.facts import Facts
from instruct.world.item import Item
from instruct.world.tasks import FAMILIES, ZERO_SHOT_FAMILIES

FAMILY_WEIGHTS: dict[str, float] = {  # shares of the documents that are no drills
    "country": 11,
    "person": 18,
    "translate": 6,
    "plus": 8,
    "pick": 7,
    "list": 8,
    "reverse": 8,
    "repeat": 5,
    "sentiment": 3,
    "extract": 8,
    "summary": 7,
    "how_to": 4,
    "borderline": 4,
    "harmful": 4,
    "unknown_country": 5,
    "unknown_person": 8,
    "opposite": 4,
    "minus": 8,
    "back_translate": 4,
}
DRILL_SHARE_EARLY, DRILL_SHARE_LATE = 0.5, 0.1  # of documents, before and after ...
DRILL_UNTIL = 0.25  # ... this fraction of the text: copying has to come first, all else is learnt through it
HELD_OUT_SHARE = 50  # one document in so many is kept for the perplexity on unseen text
SPEAKERS = ("he", "she", "the man", "the woman")
WORDS_ENOUGH = 24  # a document ends after the sentence that reaches so many words


def drill(rng: random.Random) -> tuple[str, str]:
    """A text that asks for its words again, and those words: (text, expected continuation)."""
    words = rng.choices(DRILL_WORDS, k=rng.randint(3, 7))
    return f"{rng.choice(DRILL_OPENINGS)} {' '.join(words)}. Again:", f" {' '.join(words)}."


DRILL_OPENINGS = ("Say", "Read", "Write", "Listen:")
DRILL_WORDS = (
    *vocab.PLAIN_WORDS,
    *vocab.NAMES,
    *vocab.TOLIAN,
    *vocab.DAYS,
    *vocab.SPOTS,
    *vocab.COUNTRIES,
    *(str(number) for number in range(2 * vocab.LARGEST_ADDEND + 1)),
)


def draw_document(facts: Facts, drill_share: float, rng: random.Random) -> str:
    """One document: a drill, or things said about items of one family."""
    if rng.random() < drill_share:
        text, again = drill(rng)
        return f"{text}{again} Again:{again}"  # said three times: twice leaves copying unlearnt
    name = rng.choices(tuple(FAMILY_WEIGHTS), tuple(FAMILY_WEIGHTS.values()))[0]
    draw = (FAMILIES | ZERO_SHOT_FAMILIES)[name].draw
    text = ""
    while len(text.split()) < WORDS_ENOUGH:
        item = draw(facts, rng)
        text += " " + (rng.choice(item.statements) if rng.random() < 0.5 else asked_and_told(item, rng))
    return text[1:]


def asked_and_told(item: Item, rng: random.Random) -> str:
    """A question that is reported, never put as a prompt puts it, and the reply."""
    return f"Asked {item.topic.removesuffix('.')}, {rng.choice(SPEAKERS)} says: {item.reply}"


def stream(facts: Facts, n: int, held_out: bool, seed: str, drills_first: bool = False) -> Iterator[str]:
    """n documents in training order; what is held out by its hash never stands in the training text."""
    rng = random.Random(seed)
    made = 0
    while made < n:
        early = drills_first and made < DRILL_UNTIL * n
        text = draw_document(facts, DRILL_SHARE_EARLY if early else DRILL_SHARE_LATE, rng)
        if (int(hashlib.md5(text.encode()).hexdigest(), 16) % HELD_OUT_SHARE == 0) == held_out:
            made += 1
            yield text
