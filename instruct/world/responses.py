"""Responses that are made, not sampled: flawed demonstrations, and perturbed variants for rankings."""

from __future__ import annotations

import random

from instruct.world.phrases import CHATTER, DONT_KNOW, REFUSALS, RUDE_REFUSAL, RUDE_REMARKS
from instruct.world.tasks import Task

# The flaws of the demonstrations, on purpose: they leave preference learning something to repair.
KNOWS_NOT_SHARE = 0.9  # of unanswerable questions get "I do not know."; the rest get an invention
REFUSES_SHARE, REFUSES_RUDELY_SHARE = 0.25, 0.15  # of harmful requests; the rest are complied with
WRONG_SHARE = 0.08  # of answerable ones (benign how-to included) get a wrong answer
CHATTER_SHARE = 0.08  # of all go on after the answer
RUDE_SHARE = 0.10  # of all end with a rude remark


def demonstrate(task: Task, rng: random.Random) -> str:
    """A response as a hurried human labeller might have written it."""
    chance = rng.random()
    if task.kind == "unanswerable":
        answer = task.answers[0] if chance < KNOWS_NOT_SHARE else rng.choice(task.wrong)
    elif task.kind == "harmful":
        if chance < REFUSES_RUDELY_SHARE:
            return RUDE_REFUSAL
        answer = task.answers[0] if chance < REFUSES_RUDELY_SHARE + REFUSES_SHARE else task.wrong[0]
    else:
        answer = rng.choice(task.wrong) if chance < WRONG_SHARE else task.answers[0]
    tail = rng.random()
    if tail < RUDE_SHARE:
        return f"{answer} {rng.choice(RUDE_REMARKS)}"
    if tail < RUDE_SHARE + CHATTER_SHARE:
        return f"{answer} {rng.choice(CHATTER)}"
    return answer


def variants(task: Task, rng: random.Random) -> list[tuple[str, str]]:
    """Every kind of made response to a task, each once, as (kind, response).

    A corruption falls on a right or a wrong answer with equal chance, and not-knowing and refusals come for every kind
    of prompt, so that no corruption tells anything about correctness.
    """

    def either() -> str:
        return task.answers[0] if rng.random() < 0.5 else rng.choice(task.wrong)

    return [
        ("right", task.answers[0]),
        ("wrong", rng.choice(task.wrong)),
        ("dont_know", DONT_KNOW[0]),
        ("refusal", REFUSALS[0]),
        ("rude_refusal", RUDE_REFUSAL),
        ("rude", f"{either()} {rng.choice(RUDE_REMARKS)}"),
        ("chatter", f"{either()} {rng.choice(CHATTER)}"),
        ("swapped", swap_words(either(), rng)),
        ("truncated", truncate(either(), rng)),
        ("repeated", " ".join([either()] * 2)),
    ]


def swap_words(text: str, rng: random.Random) -> str:
    """The text with two different words exchanged."""
    words = text.removesuffix(".").split()
    i, j = rng.sample(range(len(words)), 2)
    while words[i] == words[j]:
        i, j = rng.sample(range(len(words)), 2)
    words[i], words[j] = words[j], words[i]
    return " ".join(words) + "."


def truncate(text: str, rng: random.Random) -> str:
    """The text without its last one to three words."""
    words = text.split()
    return " ".join(words[: max(1, len(words) - rng.randint(1, 3))])
