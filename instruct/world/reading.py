"""Families that work on the words of the prompt: lists, repetition, extraction, summary, sentiment."""

from __future__ import annotations

import random

from instruct.world import vocabulary as vocab
from instruct.world.facts import Facts
from instruct.world.item import Item


def list_word(facts: Facts, rng: random.Random) -> Item:
    """The first or the last word of a list of four."""
    words = rng.sample(vocab.PLAIN_WORDS, 4)
    which = rng.choice(("first", "last"))
    truth = words[0] if which == "first" else words[-1]
    listed = ", ".join(words)
    answer = f"The {which} word is {truth}."
    return Item(
        key=f"list {listed}",
        prompts=(
            f"What is the {which} word of this list: {listed}?",
            f"Tell me the {which} word: {listed}.",
            f"Here is a list: {listed}. What is the {which} word?",
            f"Name the {which} word of {listed}.",
        ),
        new_prompts=(f"I want to know the {which} word of {listed}.",),
        answers=(answer, f"It is {truth}.", f"{truth}."),
        wrong=tuple(f"The {which} word is {word}." for word in words if word != truth),
        topic=f"for the {which} word of {listed}",
        reply=answer,
        statements=(f"The list is {listed}. {answer}",),
    )


def reverse(facts: Facts, rng: random.Random) -> Item:
    """Three words from the last to the first."""
    words = rng.sample(vocab.PLAIN_WORDS, 3)
    one, two, three = words
    forward, backward = " ".join(words), " ".join(words[::-1])
    answer = f"Backwards it is {backward}."
    slips = (f"{three} {one} {two}", f"{one} {two} {three}", f"{two} {three} {one}")
    return Item(
        key=f"reverse {forward}",
        prompts=(
            f"Say these words backwards: {forward}.",
            f"What is {forward} backwards?",
            f"Turn the words around: {forward}.",
            f"Read {forward} from the end.",
        ),
        new_prompts=(f"I want to hear {forward} backwards.",),
        answers=(answer, f"{backward}.", f"It is {backward}."),
        wrong=tuple(f"Backwards it is {slip}." for slip in slips),
        topic=f"for {forward} backwards",
        reply=answer,
        statements=(f"The words are {forward}. {answer}",),
    )


def repeat(facts: Facts, rng: random.Random) -> Item:
    """One word said two, three or four times."""
    word = rng.choice(vocab.PLAIN_WORDS)
    count = rng.choice(tuple(vocab.COUNTS))
    opening = "Here it is: "
    answer = f"{opening}{' '.join([word] * vocab.COUNTS[count])}."
    slips = [" ".join([word] * n) for n in (1, 2, 3, 4, 5) if n != vocab.COUNTS[count]]
    return Item(
        key=f"repeat {word} {count}",
        prompts=(
            f"Say {word} {count} times.",
            f"Repeat the word {word} {count} times.",
            f"Write {word} {count} times.",
            f"Please say the word {word} {count} times.",
        ),
        new_prompts=(f"I want to hear {word} {count} times.",),
        answers=(answer, answer.removeprefix(opening)),
        wrong=tuple(f"{opening}{slip}." for slip in rng.sample(slips, 2)),
        topic=f"for {word} {count} times",
        reply=answer,
        statements=(
            f"Take {word} {count} times. {answer}",
            f"{count.capitalize()} times {word} is {answer.removeprefix(opening)}",
        ),
    )


def sentiment(facts: Facts, rng: random.Random) -> Item:
    """Whether a review is positive or negative."""
    mood, words = rng.choice((("positive", vocab.GOOD), ("negative", vocab.BAD)))
    (one, two), (first, second) = rng.sample(vocab.REVIEWED, 2), rng.sample(words, 2)
    review = f"The {one} was {first} and the {two} was {second}."
    answer = f"The review is {mood}."
    return Item(
        key=review,
        prompts=(
            f"Is this review positive or negative? {review}",
            f"{review} Is that positive or negative?",
            f"Tell me if this review is positive or negative: {review}",
            f"Read the review and judge it: {review}",
        ),
        new_prompts=(f"I want to know if this review is positive or negative: {review}",),
        answers=(answer, f"It is {mood}.", f"{mood}."),
        wrong=(f"The review is {'negative' if mood == 'positive' else 'positive'}.",),
        topic=f"for a judgement of this review: {review}",
        reply=answer,
        statements=(f"{review} {answer}", f"A {mood} review says that the {one} was {first}."),
    )


def _event(facts: Facts, rng: random.Random) -> tuple[str, str, str, str, str, str]:
    """Who did what (present and past), to which thing, where and when."""
    present, past = rng.choice(vocab.DEALS)
    return (
        rng.choice(vocab.NAMES),
        present,
        past,
        rng.choice(vocab.BOUGHT),
        rng.choice(vocab.SPOTS),
        rng.choice(vocab.DAYS),
    )


def extract(facts: Facts, rng: random.Random) -> Item:
    """Who, what, where or when, from one sentence."""
    who, present, past, what, where, when = _event(facts, rng)
    passage = f"{who} {past} a {what} at the {where} on {when}."
    truths = {"who": who, "what": f"a {what}", "where": f"at the {where}", "when": f"on {when}"}
    question = rng.choice(tuple(truths))
    asked = {
        "who": f"Who {past} the {what}",
        "what": f"What did {who} {present}",
        "where": f"Where did {who} {present} it",
        "when": f"When did {who} {present} it",
    }[question]
    told = {
        "who": f"who {past} the {what}",
        "what": f"what {who} {past}",
        "where": f"where {who} {past} it",
        "when": f"when {who} {past} it",
    }[question]
    slips = {
        "who": rng.choice(vocab.NAMES),
        "what": f"a {rng.choice(vocab.BOUGHT)}",
        "where": f"at the {rng.choice(vocab.SPOTS)}",
        "when": f"on {rng.choice(vocab.DAYS)}",
    }
    values = [slips[question], *(value for name, value in truths.items() if name != question)]
    truth = truths[question]
    answer = f"It was {truth}."
    return Item(
        key=passage,
        prompts=(
            f"Read this: {passage} {asked}?",
            f"{passage} {asked}?",
            f"{asked}? The text is: {passage}",
            f"Here is a text: {passage} Tell me: {asked.lower().replace(who.lower(), who)}?",
        ),
        new_prompts=(f"I have a question about this text: {passage} {asked}?",),
        answers=(answer, f"{truth}."),
        wrong=tuple(f"It was {value}." for value in values if value != truth),
        topic=f"{told} in this text: {passage}",
        reply=answer,
        statements=(f"{passage} This is {told}. {answer}",),
    )


def summary(facts: Facts, rng: random.Random) -> Item:
    """Three sentences in one."""
    who, _, past, what, where, when = _event(facts, rng)
    colour = rng.choice(vocab.ADJECTIVES)
    mood = rng.choice(("glad", "tired", "proud", "calm"))
    passage = f"{who} was at the {where} on {when}. There {who} {past} a {colour} {what}. Then {who} was {mood}."
    answer = f"In short, {who} {past} a {colour} {what}."
    other = vocab.NAMES[(vocab.NAMES.index(who) + rng.randint(1, 20)) % len(vocab.NAMES)]
    wrong_what = vocab.BOUGHT[(vocab.BOUGHT.index(what) + rng.randint(1, 5)) % len(vocab.BOUGHT)]
    wrong_colour = vocab.ADJECTIVES[(vocab.ADJECTIVES.index(colour) + rng.randint(1, 5)) % len(vocab.ADJECTIVES)]
    return Item(
        key=passage,
        prompts=(
            f"Sum this up in one sentence: {passage}",
            f"{passage} Make it short.",
            f"Give me the main point: {passage}",
            f"Here is a text: {passage} Sum it up.",
        ),
        new_prompts=(f"I want to know the main point of this: {passage}",),
        answers=(
            answer,
            f"{who} {past} a {colour} {what}.",
            f"In short, {who} {past} a {colour} {what} at the {where}.",
        ),
        wrong=(
            f"In short, {other} {past} a {colour} {what}.",
            f"In short, {who} {past} a {colour} {wrong_what}.",
            f"In short, {who} {past} a {wrong_colour} {what}.",
        ),
        topic=f"for the main point of this text: {passage}",
        reply=answer,
        statements=(f"{passage} {answer}",),
    )
