"""How new instruction data is made of old: each method is the story of one candidate.

A candidate is a generator: it yields what to ask the teacher, is sent the reply, and returns a draft, or raises Dropped
with the reason. Many are under way at a time, and each sees what earlier ones left.
"""

from __future__ import annotations

import random
import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from instruct.generation.screen import KEYWORDS, Dropped, FilterConfig, Screen
from instruct.generation.templates import Ask, Templates
from models.chat import Message, Prompt
from models.errors import Origin
from models.rouge import words
from models.split import text_key


@dataclass(frozen=True)
class Seed:
    """What a candidate starts from: a conversation, or a text alone as one turn of the assistant."""

    messages: Prompt
    origin: Origin

    @property
    def instruction(self) -> str:
        """The opening turn of the user; empty for a text alone."""
        return next((message.content for message in self.messages if message.role == "user"), "")


@dataclass(frozen=True)
class Draft:
    """A row to be, what it was made from, and its new instruction."""

    messages: Prompt
    seeds: tuple[Origin, ...]
    instruction: str


Candidate = Generator[Ask, str, Draft]


class Method(ABC):
    """Candidates by their number, from 0 on."""

    def __init__(self, seeds: Sequence[Seed], templates: Templates, filters: FilterConfig) -> None:
        self.seeds, self.templates = seeds, templates
        self.screen = self.make_screen(filters)

    def make_screen(self, filters: FilterConfig) -> Screen:
        """The checks, with what new instructions are compared with."""
        return Screen(filters, (seed.instruction for seed in self.seeds))

    @abstractmethod
    def candidate(self, number: int, rng: random.Random) -> Candidate:
        """The story of one candidate."""

    def kept(self, number: int, draft: Draft) -> None:  # noqa: B027  most methods need not know
        """Told of every draft that became a row."""


class SelfInstruct(Method):
    """Self-Instruct (Wang et al. 2023, arXiv:2212.10560): a new task after examples, then its input and output.

    As there, a quarter of the examples are tasks that were made before, a task is compared with all others by ROUGE-L,
    and an instance whose output repeats its input is dropped. Unlike there, a teacher that chats is asked for one task
    at a time, and for input and output in one reply, without telling classification apart.
    """

    def __init__(self, seeds: Sequence[Seed], templates: Templates, filters: FilterConfig, demonstrations: int) -> None:
        super().__init__(seeds, templates, filters)
        self.demonstrations = demonstrations
        self.made: list[tuple[str, tuple[Origin, ...]]] = []

    def make_screen(self, filters: FilterConfig) -> Screen:
        return Screen(filters, (task_of(seed.instruction) for seed in self.seeds), KEYWORDS)

    def candidate(self, number: int, rng: random.Random) -> Candidate:
        shown = rng.sample(self.made, min(len(self.made), self.demonstrations // 4))
        human = [(task_of(seed.instruction), (seed.origin,)) for seed in self.seeds]
        shown += rng.sample(human, min(len(human), self.demonstrations - len(shown)))
        rng.shuffle(shown)
        listed = "\n".join(f"{place}. {' '.join(task.split())}" for place, (task, _) in enumerate(shown, 1))
        instruction = alone((yield self.templates.ask("self_instruct.instruction", demonstrations=listed)))
        instruction = re.sub(r"^\d+[.)]\s+", "", instruction)
        self.screen.instruction(instruction)
        given, output = instance((yield self.templates.ask("self_instruct.instance", instruction=instruction)))
        self.screen.reply(output)
        if text_key(given) == text_key(output):
            raise Dropped("reply: repeats its input")
        prompt = Message("user", f"{instruction}\n\n{given}" if given else instruction)
        origins = tuple(dict.fromkeys(origin for _, origins in shown for origin in origins))
        return Draft((prompt, Message("assistant", output)), origins, instruction)

    def kept(self, number: int, draft: Draft) -> None:
        self.made.append((draft.instruction, draft.seeds))


class Evolve(Method):
    """Evol-Instruct (Xu et al. 2023, arXiv:2304.12244): an instruction made harder or exchanged for a rarer one, then
    answered.

    Seeds are taken in turn; when all have been, what became of each evolves further. As there, an evolution is
    eliminated (and the form before it stays) where the teacher finds that it asks for the same, where it speaks of
    prompts, and where its answer is a refusal or has no words. Of a conversation the opening alone evolves.
    """

    WAYS = ("constrain", "deepen", "concretise", "reason", "broaden")
    LEAKED = re.compile(r"\b(given|rewritten|new|original|created) prompt\b", re.IGNORECASE)

    def __init__(self, seeds: Sequence[Seed], templates: Templates, filters: FilterConfig) -> None:
        super().__init__(seeds, templates, filters)
        self.forms = [seed.instruction for seed in seeds]

    def candidate(self, number: int, rng: random.Random) -> Candidate:
        form, seed = self.forms[number % len(self.seeds)], self.seeds[number % len(self.seeds)]
        way = rng.choice(self.WAYS)
        evolved = alone((yield self.templates.ask(f"evolve.{way}", instruction=form)))
        if self.LEAKED.search(evolved) and not self.LEAKED.search(form):
            raise Dropped("instruction: speaks of prompts")
        if text_key(evolved) == text_key(form):
            raise Dropped("instruction: unchanged")
        self.screen.instruction(evolved, own_seed=form)
        verdict = yield self.templates.ask("evolve.equal", instruction=form, evolved=evolved)
        if first_words(verdict, 2) != "not equal":
            raise Dropped("instruction: not found to ask for something else")
        answer = without_thoughts((yield self.templates.ask("evolve.answer", instruction=evolved)))
        self.screen.reply(answer)
        return Draft((Message("user", evolved), Message("assistant", answer)), (seed.origin,), evolved)

    def kept(self, number: int, draft: Draft) -> None:
        self.forms[number % len(self.seeds)] = draft.instruction


class Rephrase(Method):
    """The opening of a conversation in other words; all else is kept, the answers too.

    They are right answers as long as the meaning is the same, so the teacher is asked whether it is.
    """

    def candidate(self, number: int, rng: random.Random) -> Candidate:
        seed = self.seeds[number % len(self.seeds)]
        reworded = alone((yield self.templates.ask("rephrase.instruction", instruction=seed.instruction)))
        if text_key(reworded) == text_key(seed.instruction):
            raise Dropped("instruction: unchanged")
        self.screen.instruction(reworded, own_seed=seed.instruction)
        verdict = yield self.templates.ask("rephrase.same", instruction=seed.instruction, reworded=reworded)
        if first_words(verdict, 1) != "yes":
            raise Dropped("instruction: not the same in other words")
        opening = next(place for place, message in enumerate(seed.messages) if message.role == "user")
        messages = (*seed.messages[:opening], Message("user", reworded), *seed.messages[opening + 1 :])
        return Draft(messages, (seed.origin,), reworded)


class BackTranslate(Method):
    """Instruction back-translation (Li et al. 2023, arXiv:2308.06259): the instruction that a text answers.

    As there, the teacher rates each pair from 1 to 5 (self-curation), and those below `min_score` are dropped. Unlike
    there, the teacher need not be trained on pairs turned around: it is asked. Of a conversation, the last answer is
    taken.
    """

    def __init__(self, seeds: Sequence[Seed], templates: Templates, filters: FilterConfig, min_score: int) -> None:
        super().__init__(seeds, templates, filters)
        self.min_score = min_score

    def candidate(self, number: int, rng: random.Random) -> Candidate:
        seed = self.seeds[number % len(self.seeds)]
        output = seed.messages[-1].content
        self.screen.reply(output)
        instruction = alone((yield self.templates.ask("back_translate.instruction", output=output)))
        self.screen.instruction(instruction)
        if self.min_score > 1:
            rating = yield self.templates.ask("back_translate.rate", instruction=instruction, output=output)
            score = re.search(r"[1-5]", without_thoughts(rating))
            if score is None:
                raise Dropped("rating: no number")
            if int(score[0]) < self.min_score:
                raise Dropped(f"rating: below {self.min_score}")
        return Draft((Message("user", instruction), Message("assistant", output)), (seed.origin,), instruction)


def task_of(instruction: str) -> str:
    """An instruction without the material that it works on, which follows after an empty line."""
    return instruction.partition("\n\n")[0]


_THOUGHTS = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
_LABEL = re.compile(r"^[#*\s]*(the )?(new |rewritten )?(prompt|instruction|task|message)[#*\s]*:[*\s]*", re.IGNORECASE)


def without_thoughts(reply: str) -> str:
    """A reply without the thoughts that some servers leave in front of it."""
    return _THOUGHTS.sub("", reply).strip()


def first_words(reply: str, n: int) -> str:
    """The first words of a verdict, in lower case."""
    return " ".join(words(without_thoughts(reply))[:n])


def alone(reply: str) -> str:
    """The text that was asked for, without a label before it and quotation marks around it."""
    text = _LABEL.sub("", without_thoughts(reply)).strip()
    quoted = len(text) > 1 and (text[0], text[-1]) in (('"', '"'), ("“", "”"), ("'", "'"), ("`", "`"))
    return text[1:-1].strip() if quoted and text[0] not in text[1:-1] else text


_INSTANCE = re.compile(r"^[*#\s]*input[*#\s]*:[*\s]*(.*?)\n[*#\s]*output[*#\s]*:[*\s]*(.+)$", re.IGNORECASE | re.DOTALL)


def instance(reply: str) -> tuple[str, str]:
    """Input (maybe empty) and output of a reply in the form `Input: … Output: …`. Raises Dropped for another form."""
    found = _INSTANCE.match(without_thoughts(reply))
    if found is None:
        raise Dropped("reply: not in the form asked for")
    given, output = found[1].strip(), found[2].strip()
    return ("" if words(given) in ([], ["none"], ["n", "a"]) else given), output
