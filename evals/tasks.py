"""What a model makes of questions with known answers, and of plain text.

A measurement is kept by row until it is estimated, so that models can be compared row by row.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evals.intervals import Estimate, Statistic, bootstrap_statistic, perplexity
from evals.panel import Nested
from evals.results import nested
from evals.subject import Loss, Response, Subject
from evals.text_metrics import chrf_counts, chrf_score, exact_match, rouge_l, token_f1
from models.chat import Prompt


@dataclass(frozen=True)
class Question:
    """A prompt and what is right to answer: any of the answers."""

    prompt: Prompt
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Measurement:
    """Rows (N, k), one for each question or document, and what is made of their sums."""

    rows: NDArray[np.float64]
    statistic: Statistic

    def estimate(self) -> Estimate:
        return bootstrap_statistic(self.rows, self.statistic)

    def minus(self, other: Measurement) -> Estimate | None:
        """The paired difference; None of perplexities over other tokens, which measure other things."""
        if self.statistic is perplexity and not np.array_equal(self.rows[:, 1], other.rows[:, 1]):
            return None
        return bootstrap_statistic(self.rows, self.statistic, minus=other.rows)


Measured = dict[str, Measurement]
"""Measurements of one model by dotted name."""


@dataclass(frozen=True)
class TextPanel:
    """Documents that a model should find likely."""

    documents: list[str]
    prompts: tuple[Prompt, ...] = ()  # it asks nothing

    def measure(self, model: Subject) -> Measured:
        return likelihood(model.document_nll(self.documents), self.documents)


@dataclass(frozen=True)
class QuestionPanel:
    """Questions with known answers. `examples`: whole conversations that may stand before a question, `shots` of them;
    without any the question is always asked."""

    questions: list[Question]
    examples: list[Prompt]
    shots: tuple[int, ...] = ()

    @property
    def prompts(self) -> list[Prompt]:
        return [question.prompt for question in self.questions]

    def measure(self, model: Subject, answered: Sequence[Response] | None = None) -> Measured:
        """answered: the model's greedy responses to the questions alone, where they are there already."""
        found = self._asked(model, self.prompts, answered or model.respond(self.prompts, temperature=0.0))
        for n in self.shots:
            drawn = [self.drawn(prompt, n, model) for prompt in self.prompts]
            prompts = [after_examples(prompt, examples) for prompt, examples in zip(self.prompts, drawn, strict=True)]
            responses = model.respond(prompts, temperature=0.0)
            if model.chat is None:
                responses = [first_turn(r, prompt) for r, prompt in zip(responses, prompts, strict=True)]
            shown = {"examples": mean_of([float(len(examples)) for examples in drawn])}
            measured = self._asked(model, prompts, responses) | shown
            found |= {f"shots.{n}.{name}": value for name, value in measured.items()}
        return found

    def scores(self, responses: Sequence[Response]) -> Measured:
        """How near the responses come to the answers, and how they end."""
        pairs = [(r.text, q.answers) for r, q in zip(responses, self.questions, strict=True)]

        def mean(score: Callable[[str, Sequence[str]], float]) -> Measurement:
            return mean_of([score(text, answers) for text, answers in pairs])

        return {
            "exact_match": mean(exact_match),
            "token_f1": mean(token_f1),
            "rouge_l": mean(rouge_l),
            "chrf": Measurement(np.array([chrf_counts(text, answers) for text, answers in pairs]), chrf_score),
            "ended": mean_of([float(r.ended) for r in responses]),
            "length": mean_of([float(len(r.ids)) for r in responses]),
        }

    def _asked(self, model: Subject, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Measured:
        pairs = [(p, answer) for p, q in zip(prompts, self.questions, strict=True) for answer in q.answers]
        losses = iter(model.answer_nll(*zip(*pairs, strict=True)))
        nll = [_total([next(losses) for _ in question.answers]) for question in self.questions]
        return {**self.scores(responses), **likelihood(nll, ["".join(q.answers) for q in self.questions])}

    def drawn(self, prompt: Prompt, n: int, model: Subject) -> list[Prompt]:
        """The examples of one question: n, or as many as leave room; the same in every run."""
        found = sorted(self.examples, key=lambda example: stable_hash(prompt, example))[:n]
        while found and not model.fits(after_examples(prompt, found)):
            found = found[1:]
        return found


def after_examples(prompt: Prompt, examples: Sequence[Prompt]) -> Prompt:
    """The system turn of the prompt, the turns of the examples without theirs, and the rest of the prompt."""
    system = [m for m in prompt if m.role == "system"]
    turns = [m for conversation in [*examples, prompt] for m in conversation if m.role != "system"]
    return (*system, *turns)


def first_turn(response: Response, prompt: Prompt) -> Response:
    """What a model that is asked in plain text, a line a turn, answered before it went on with a turn of its own; the
    whole response where an example's turn has several lines."""
    if any("\n" in m.content for m in prompt[:-1]) or "\n" not in response.text:
        return response
    return replace(response, text=response.text.partition("\n")[0], ended=True)


def stable_hash(*conversations: Prompt) -> str:
    """The same for the same conversations, in every process."""
    said = repr([[(m.role, m.content) for m in conversation] for conversation in conversations])
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()


def ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of (..., (total, count))."""
    return sums[..., 0] / sums[..., 1]


def mean_of(values: Sequence[float]) -> Measurement:
    """Every row counts once."""
    return Measurement(np.array([(value, 1.0) for value in values]), ratio)


def likelihood(nll: Sequence[Loss], texts: Sequence[str]) -> Measured:
    """Perplexity by token, and bits by byte of UTF-8, which compare between tokenizers."""
    bits = [(loss / math.log(2), len(text.encode())) for (loss, _), text in zip(nll, texts, strict=True)]
    return {
        "perplexity": Measurement(np.array(nll, dtype=np.float64), perplexity),
        "bits_per_byte": Measurement(np.array(bits, dtype=np.float64), ratio),
    }


def estimated(measured: Measured) -> Nested:
    """Every measurement with its interval."""
    return nested({name: measurement.estimate().as_dict() for name, measurement in measured.items()})


def gains(ours: Measured, theirs: Measured) -> Nested:
    """Paired differences, ours - theirs, of what can be compared."""
    found: Mapping[str, Estimate | None] = {name: own.minus(theirs[name]) for name, own in ours.items()}
    return nested({name: change.as_dict() for name, change in found.items() if change is not None})


def _total(losses: Sequence[Loss]) -> Loss:
    return sum(loss for loss, _ in losses), sum(n for _, n in losses)
