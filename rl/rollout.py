"""A rollout: what the policy answered, what that scored, and how policy, reference and critic see every token of it.

R = responses of a rollout, those to one prompt in a row; T = its longest response; C = critics; G = responses a prompt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from models.chat import Prompt
from models.errors import HHHError, NumericsError
from models.generation import Sample
from models.layout import Batch, LayoutConfig, Tree, collate_rankings, within
from models.logprobs import per_response, token_logprobs
from rl.actor_critic import ActorCritic
from rl.samplers import Sampler

Item, Found = TypeVar("Item"), TypeVar("Found")
EVALUATED = 8192  # tokens that are evaluated at once


class Question(NamedTuple):
    """A prompt of the pool."""

    number: int  # its place there
    prompt: Prompt
    ids: list[int]
    fields: Mapping[str, Any] = {}  # other fields of its data row, for scores that compare with a known answer


class Answers(NamedTuple):
    """The responses to one prompt."""

    question: Question
    samples: list[Sample]

    @property
    def tree(self) -> Tree:
        return Tree.of(self.question.ids, [s.ids for s in self.samples])


class Scorer(Protocol):
    """What judges responses. Larger is better in every column."""

    columns: tuple[str, ...]  # helpful, honest, harmless of our reward model; one of each other judge
    weights: Mapping[str, float]  # what each column counts in the score, unless the options of RL say otherwise

    def __call__(self, answers: Sequence[Answers]) -> Tensor:
        """(responses in order, columns)."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a run. gather: one object of each process, on every process."""

    rank: int = 0
    world: int = 1
    gather: Callable[[Any], list[Any]] = lambda own: [own]

    def spread(self, items: Sequence[Item], work: Callable[[Sequence[Item]], list[Found]]) -> list[Found]:
        """`work` on all items, a part on each process, with all that was found, in order, on every process. What goes
        wrong on one is raised on every one."""
        try:
            own: list[Found] | HHHError = work(items[self.rank :: self.world])
        except HHHError as error:
            own = error
        parts = self.gather(own)
        if faults := [part for part in parts if isinstance(part, HHHError)]:
            raise faults[0]
        found: list[Any] = [None] * len(items)
        for rank, part in enumerate(parts):
            found[rank :: self.world] = part
        return found


class Measured(NamedTuple):
    """The responses to one prompt with what is known of them; n = their tokens."""

    answers: Answers
    scores: Tensor  # (G, columns)
    tokens: dict[str, Tensor]  # (n,) logprobs, ref_logprobs, sampler_logprobs, entropy; (n, C) values
    end_values: Tensor | None  # (G, C) of the states after the last tokens


@dataclass(frozen=True)
class Rollout:
    """All that a policy is updated on. Token rows are zero-padded on the right."""

    answers: list[Answers]
    scores: Tensor  # (R, columns) the scorer's
    tokens: dict[str, Tensor]  # (R, T) as in Measured; (R, T, C) values
    end_values: Tensor | None  # (R, C)
    mask: Tensor  # (R, T) bool
    seconds: dict[str, float] = field(default_factory=dict)  # where the time went

    @classmethod
    def of(cls, measured: Sequence[Measured], seconds: dict[str, float]) -> Rollout:
        answers = [found.answers for found in measured]
        lengths = torch.tensor([len(s.ids) for a in answers for s in a.samples])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        tokens = {}
        for name in measured[0].tokens:
            flat = torch.cat([found.tokens[name] for found in measured])
            tokens[name] = flat.new_zeros(*mask.shape, *flat.shape[1:])
            tokens[name][mask] = flat
        ends = None if measured[0].end_values is None else torch.cat([found.end_values for found in measured])
        return cls(answers, torch.cat([found.scores for found in measured]), tokens, ends, mask, seconds)

    @property
    def ended(self) -> Tensor:
        """(R,) bool: the response closed its turn."""
        return torch.tensor([s.ended for answers in self.answers for s in answers.samples])

    @property
    def group_size(self) -> int:
        return len(self.answers[0].samples)


@dataclass(kw_only=True)
class RolloutEngine:
    """Generates, scores, and asks the models about every token."""

    model: ActorCritic
    scorer: Scorer
    sampler: Sampler
    temperature: float
    layout: LayoutConfig
    ranks: Ranks
    bf16: bool = False  # the precision of the training

    def generate(self, questions: Sequence[Question], n: int, generators: Sequence[torch.Generator]) -> list[Answers]:
        """`n` responses a prompt, at the engine's temperature. generators: one a prompt."""
        samples = self.sampler.generate(self.model.policy, [question.ids for question in questions], n, generators)
        return [Answers(q, samples[i * n : (i + 1) * n]) for i, q in enumerate(questions)]

    @torch.no_grad()
    def collect(
        self, questions: Sequence[Question], n: int, generators: Sequence[torch.Generator], seconds: dict[str, float]
    ) -> list[Measured]:
        """Sample, score, and evaluate, each process its part. seconds: where what it took is added."""

        def work(part: Sequence[tuple[Question, torch.Generator]]) -> list[Measured]:
            clock = _Clock(seconds)
            answers = self.generate([question for question, _ in part], n, [generator for _, generator in part])
            if not answers:  # fewer prompts than processes; all must take part in what the sampler does
                return []
            clock.lap("rollout")
            scores = judged(self.scorer, answers).split(n)
            clock.lap("scoring")
            evaluated = self._in_parts(answers, self._evaluate)
            clock.lap("evaluation")
            for a, (tokens, _) in zip(answers, evaluated, strict=True):
                tokens["sampler_logprobs"] = torch.tensor([x for s in a.samples for x in s.logprobs])
            return [Measured(a, s, *e) for a, s, e in zip(answers, scores, evaluated, strict=True)]

        return self.ranks.spread(list(zip(questions, generators, strict=True)), work)

    @torch.no_grad()
    def drift(self, answers: Sequence[Answers]) -> list[Tensor]:
        """Log-ratio of policy and reference of each response, (G,) a prompt: its mean over own samples estimates the
        KL."""

        def of(batch: Batch) -> Tensor:
            ours = token_logprobs(self.model.policy, batch, temperature=self.temperature).logprobs
            return per_response(ours - self.model.reference_logprobs(batch, self.temperature), batch).cpu()

        return self._in_parts(
            answers, lambda trees, batch: list(of(batch).split([len(tree.responses) for tree in trees]))
        )

    def _in_parts(
        self, answers: Sequence[Answers], work: Callable[[Sequence[Tree], Batch], list[Found]]
    ) -> list[Found]:
        """`work` on as many trees at once as memory is meant for; one result a tree, in their order."""
        self.model.eval()
        trees = [a.tree for a in answers]
        found: dict[int, Found] = {}
        device = self.model.policy.device
        for rows in within(EVALUATED, [tree.n_tokens for tree in trees]):
            part = [trees[i] for i in rows]
            batch = on_device(collate_rankings(part, self.layout), device)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
                found.update(zip(rows, work(part, batch), strict=True))
        return [found[i] for i in range(len(trees))]

    def _evaluate(self, trees: Sequence[Tree], batch: Batch) -> list[tuple[dict[str, Tensor], Tensor | None]]:
        found, values = self.model.evaluate(batch, self.temperature)
        tokens = {
            "logprobs": found.logprobs,
            "ref_logprobs": self.model.reference_logprobs(batch, self.temperature),
            "entropy": found.entropy,
        }
        ends: Sequence[Tensor | None] = [None] * len(trees)
        if values is not None:
            tokens["values"] = values[: len(batch["source"])]
            ends = values[len(batch["source"]) :].cpu().split([len(tree.responses) for tree in trees])
        sizes = [tree.n_targets for tree in trees]
        columns = {name: value.cpu().split(sizes) for name, value in tokens.items()}
        return [({name: column[i] for name, column in columns.items()}, ends[i]) for i in range(len(trees))]


def judged(scorer: Scorer, answers: Sequence[Answers]) -> Tensor:
    """The scores of answers. An error about numbers takes the answers along, to be kept."""
    try:
        return scorer(answers)
    except NumericsError as error:
        error.batch = [(a.question.number, a.question.ids, [s.ids for s in a.samples]) for a in answers]
        raise


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch where the model is."""
    return {name: value.to(device) for name, value in batch.items()}


def freeze(model: nn.Module) -> nn.Module:
    """A model that only answers."""
    return model.eval().requires_grad_(False)


class _Clock:
    def __init__(self, laps: dict[str, float]) -> None:
        self.laps, self.last = laps, time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self.last = self.laps.get(name, 0.0) + now - self.last, now
