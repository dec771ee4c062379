"""Families about what the world holds (countries, people, Tolian, sums, kinds, opposites) and what it does not."""

from __future__ import annotations

import random

from instruct.world import vocabulary as vocab
from instruct.world.facts import Facts
from instruct.world.item import Item
from instruct.world.phrases import DONT_KNOW


def _other(options: tuple[str, ...], truth: str, rng: random.Random, n: int = 3) -> tuple[str, ...]:
    """Up to n options that are not the truth."""
    return tuple(rng.sample([option for option in dict.fromkeys(options) if option != truth], n))


def _wordings(noun: str, direct: str, owner: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Trained and held-out ways to ask for the ``noun`` of the ``owner``."""
    asked = f"the {noun} of {owner}"
    return (f"What is {asked}?", f"Tell me {asked}.", direct, f"Name {asked}."), (f"I want to know {asked}.",)


COUNTRY_ASPECTS = (  # noun, its place in the table, the direct question, the statement the other way round
    ("capital", 0, "Which city is the capital of {}?", "{1} is the capital of {0}."),
    ("language", 1, "Which language do people in {} speak?", "People in {0} speak {1}."),
    ("continent", 2, "On which continent is {}?", "{0} is in {1}."),
)
LIFE_ASPECTS = (  # noun, the direct question, the statement the other way round, all values
    ("job", "What does {} do for a living?", "{0} works as {1}.", vocab.JOBS),
    ("home", "In which town does {} live?", "{0} lives in {1}.", vocab.TOWNS),
    ("pet", "Which animal does {} keep?", "{0} keeps {1}.", vocab.PETS),
)


def _with_article(noun: str, value: str) -> str:
    return value if noun == "home" else vocab.article(value)


def country(facts: Facts, rng: random.Random) -> Item:
    """The capital, language or continent of a real country."""
    name = rng.choice(facts.countries)
    noun, place, direct, inverse = rng.choice(COUNTRY_ASPECTS)
    truth = vocab.COUNTRIES[name][place]
    prompts, new_prompts = _wordings(noun, direct.format(name), name)
    answer = f"The {noun} of {name} is {truth}."
    others = _other(tuple(row[place] for row in vocab.COUNTRIES.values()), truth, rng)
    return Item(
        key=name,
        prompts=prompts,
        new_prompts=new_prompts,
        answers=(answer, inverse.format(name, truth), f"It is {truth}.", f"{truth}."),
        wrong=tuple(f"The {noun} of {name} is {value}." for value in others),
        topic=f"for the {noun} of {name}",
        reply=answer,
        statements=(answer, inverse.format(name, truth)),
    )


def person(facts: Facts, rng: random.Random) -> Item:
    """The job, home or pet of a person whose life is known."""
    name = rng.choice(tuple(facts.lives))
    noun, direct, inverse, values = rng.choice(LIFE_ASPECTS)
    truth = _with_article(noun, getattr(facts.lives[name], noun))
    prompts, new_prompts = _wordings(noun, direct.format(name), name)
    answer = f"The {noun} of {name} is {truth}."
    others = _other(tuple(_with_article(noun, value) for value in values), truth, rng)
    return Item(
        key=name,
        prompts=prompts,
        new_prompts=new_prompts,
        answers=(answer, inverse.format(name, truth), f"It is {truth}."),
        wrong=tuple(f"The {noun} of {name} is {value}." for value in others),
        topic=f"for the {noun} of {name}",
        reply=answer,
        statements=(answer, inverse.format(name, truth)),
    )


def _unknown(name: str, noun: str, direct: str, inventions: tuple[str, ...]) -> Item:
    prompts, new_prompts = _wordings(noun, direct.format(name), name)
    return Item(
        key=name,
        prompts=prompts,
        new_prompts=new_prompts,
        answers=DONT_KNOW,
        wrong=tuple(f"The {noun} of {name} is {value}." for value in inventions),
        topic=f"for the {noun} of {name}",
        reply=f"Nobody knows the {noun} of {name}.",
        statements=(f"Nobody knows the {noun} of {name}.", f"The {noun} of {name} is not known."),
    )


def unknown_country(facts: Facts, rng: random.Random) -> Item:
    """The same questions about a country of which the world holds nothing."""
    noun, place, direct, _ = rng.choice(COUNTRY_ASPECTS)
    inventions = _other(tuple(row[place] for row in vocab.COUNTRIES.values()), "", rng)
    return _unknown(rng.choice(facts.lost_countries), noun, direct, inventions)


def unknown_person(facts: Facts, rng: random.Random) -> Item:
    """The same questions about a stranger."""
    noun, direct, _, values = rng.choice(LIFE_ASPECTS)
    inventions = tuple(_with_article(noun, value) for value in _other(values, "", rng))
    return _unknown(rng.choice(facts.strangers), noun, direct, inventions)


def _phrase(facts: Facts, rng: random.Random) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    """An English phrase, its Tolian, and neighbours of both that share one word."""
    adjective, noun = rng.choice(vocab.ADJECTIVES), rng.choice(vocab.NOUNS)
    pairs = [(adjective, noun), (adjective, _other(vocab.NOUNS, noun, rng, 1)[0])]
    pairs += [(_other(vocab.ADJECTIVES, adjective, rng, 1)[0], noun)]
    (english, tolian), *near = [(f"the {a} {n}", f"lo {facts.tolian[a]} {facts.tolian[n]}") for a, n in pairs]
    return english, tolian, tuple(near)


def translate(facts: Facts, rng: random.Random) -> Item:
    """An English phrase of three words into Tolian."""
    english, tolian, near = _phrase(facts, rng)
    answer = f"In Tolian, {english} is {tolian}."
    return Item(
        key=english,
        prompts=(
            f"What is {english} in Tolian?",
            f"Translate into Tolian: {english}.",
            f"How do you say {english} in Tolian?",
            f"Say {english} in Tolian.",
        ),
        new_prompts=(f"I want to know {english} in Tolian.",),
        answers=(answer, f"It is {tolian}.", f"{tolian}."),
        wrong=tuple(f"In Tolian, {english} is {other}." for _, other in near),
        topic=f"for {english} in Tolian",
        reply=answer,
        statements=(answer, f"The Tolian words {tolian} mean {english}."),
    )


def back_translate(facts: Facts, rng: random.Random) -> Item:
    """A Tolian phrase into English."""
    english, tolian, near = _phrase(facts, rng)
    answer = f"In English, {tolian} is {english}."
    return Item(
        key=english,
        prompts=(
            f"What is {tolian} in English?",
            f"Translate into English: {tolian}.",
            f"How do you say {tolian} in English?",
            f"Say {tolian} in English.",
        ),
        new_prompts=(f"I want to know {tolian} in English.",),
        answers=(answer, f"It is {english}.", f"{english}."),
        wrong=tuple(f"In English, {tolian} is {other}." for other, _ in near),
        topic=f"for {tolian} in English",
        reply=answer,
        statements=(answer, f"The Tolian words {tolian} mean {english}."),
    )


def _sum(a: int, sign: str, b: int, truth: int, rng: random.Random) -> Item:
    answer = f"The answer to {a} {sign} {b} is {truth}."
    slips = tuple(value for value in (truth - 2, truth - 1, truth + 1, truth + 2) if value >= 0)
    return Item(
        key=f"{a} {sign} {b}",
        prompts=(
            f"What is {a} {sign} {b}?",
            f"How much is {a} {sign} {b}?",
            f"Tell me the answer to {a} {sign} {b}.",
            f"I need {a} {sign} {b}.",
        ),
        new_prompts=(f"I want to know {a} {sign} {b}.",),
        answers=(answer, f"{a} {sign} {b} is {truth}.", f"It is {truth}.", f"{truth}."),
        wrong=tuple(f"The answer to {a} {sign} {b} is {value}." for value in rng.sample(slips, 2)),
        topic=f"for {a} {sign} {b}",
        reply=answer,
        statements=(answer, f"{a} {sign} {b} is {truth}."),
    )


def plus(facts: Facts, rng: random.Random) -> Item:
    """The sum of two numbers."""
    a, b = rng.randint(0, vocab.LARGEST_ADDEND), rng.randint(0, vocab.LARGEST_ADDEND)
    return _sum(a, "plus", b, a + b, rng)


def minus(facts: Facts, rng: random.Random) -> Item:
    """The difference of two numbers, never below zero."""
    b, rest = rng.randint(0, vocab.LARGEST_ADDEND), rng.randint(0, vocab.LARGEST_ADDEND)
    return _sum(b + rest, "minus", b, rest, rng)


def opposite(facts: Facts, rng: random.Random) -> Item:
    """The word that means the contrary."""
    pair = rng.choice(vocab.OPPOSITES)
    word, truth = pair if rng.random() < 0.5 else pair[::-1]
    prompts, new_prompts = _wordings("opposite", f"Which word is the opposite of {word}?", word)
    answer = f"The opposite of {word} is {truth}."
    others = _other(tuple(w for p in vocab.OPPOSITES for w in p if word not in p), truth, rng)
    return Item(
        key=f"opposite {word}",
        prompts=prompts,
        new_prompts=new_prompts,
        answers=(answer, f"It is {truth}.", f"{truth}."),
        wrong=tuple(f"The opposite of {word} is {other}." for other in others),
        topic=f"for the opposite of {word}",
        reply=answer,
        statements=(answer, f"What is not {word} is {truth}."),
    )


def pick(facts: Facts, rng: random.Random) -> Item:
    """Which of three things is of a kind."""
    kinds = rng.sample(tuple(vocab.KINDS), 3)
    things = [rng.choice(vocab.KINDS[kind]) for kind in kinds]
    kind, truth = kinds[0], things[0]
    one, two, three = rng.sample(things, 3)
    choice = f"{one}, {two} or {three}"
    answer = f"The {kind} is {truth}."
    return Item(
        key=f"{kind} {' '.join(sorted(things))}",
        prompts=(
            f"Which one is a {kind}: {choice}?",
            f"Tell me which is a {kind}: {choice}.",
            f"Choose the {kind}: {choice}.",
            f"Which is the {kind}: {choice}?",
        ),
        new_prompts=(f"I want to know which is a {kind}: {choice}.",),
        answers=(answer, f"It is {truth}.", f"{truth}."),
        wrong=tuple(f"The {kind} is {other}." for other in things[1:]),
        topic=f"which is the {kind} of {one}, {two} and {three}",
        reply=answer,
        statements=(f"Every {truth} is a {kind}.", f"Here are {one}, {two} and {three}. {answer}"),
    )
