"""A rollout: what the policy answered, what that scored, and how policy, reference and critic see every token of it.

R = responses of a rollout, those to one prompt in a row; T = its longest response; C = critics; G = responses a prompt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from models.chat import Prompt
from models.errors import HHHError, NumericsError
from models.generation import Sample
from models.layout import Batch, LayoutConfig, Tree, collate_rankings, within
from models.partitioned import whole
from rl.actor_critic import END_VALUES, POLICY, REFERENCE, ActorCritic, Reading
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
        """(responses in order, columns). Every process must call it, one without answers too."""


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

    def answer(self, questions: Sequence[Question], n: int, generators: Sequence[torch.Generator]) -> list[Answers]:
        """`n` responses a prompt, at the engine's temperature, each process its part. generators: one a prompt."""

        def work(part: Sequence[tuple[Question, torch.Generator]]) -> list[Answers]:
            asked, own = [question for question, _ in part], [generator for _, generator in part]
            samples = self.sampler.generate(self.model.policy, [question.ids for question in asked], n, own)
            return [Answers(q, samples[i * n : (i + 1) * n]) for i, q in enumerate(asked)]

        return self.ranks.spread(list(zip(questions, generators, strict=True)), work)

    def judge(self, scorer: Scorer, answers: Sequence[Answers]) -> list[Tensor]:
        """Scores (G, columns) of the responses to each prompt, each process its part."""

        def work(part: Sequence[Answers]) -> list[Tensor]:
            return list(judged(scorer, part).split([len(a.samples) for a in part]))

        return self.ranks.spread(answers, work)

    def collect(
        self, questions: Sequence[Question], n: int, generators: Sequence[torch.Generator], seconds: dict[str, float]
    ) -> list[Measured]:
        """Sample, score, and evaluate. seconds: where what it took is added."""
        clock = _Clock(seconds)
        answers = self.answer(questions, n, generators)
        clock.lap("rollout")
        scores = self.judge(self.scorer, answers)
        clock.lap("scoring")
        read = self._read(answers, self.model.readings(self.temperature))
        clock.lap("evaluation")
        ends = [columns.pop(END_VALUES, None) for columns in read]
        for a, columns in zip(answers, read, strict=True):
            columns["sampler_logprobs"] = torch.tensor([x for s in a.samples for x in s.logprobs])
        return [Measured(*found) for found in zip(answers, scores, read, ends, strict=True)]

    def drift(self, answers: Sequence[Answers]) -> list[Tensor]:
        """Log-ratio of policy and reference of each response, (G,) a prompt: its mean over own samples estimates the
        KL."""
        readings = self.model.readings(self.temperature)
        read = self._read(answers, {name: readings[name] for name in (POLICY, REFERENCE)})
        ratios = [columns["logprobs"] - columns["ref_logprobs"] for columns in read]
        lengths = [[len(s.ids) for s in a.samples] for a in answers]
        return [torch.stack([r.sum() for r in ratio.split(n)]) for ratio, n in zip(ratios, lengths, strict=True)]

    def _read(self, answers: Sequence[Answers], readings: Mapping[str, Reading]) -> list[dict[str, Tensor]]:
        """What the models say of the responses to each prompt, each process its part; one model's weights are whole at
        a time."""
        trees = [a.tree for a in answers]
        return self.ranks.spread(trees, lambda part: self._columns(part, readings.values()))

    @torch.no_grad()
    def _columns(self, trees: Sequence[Tree], readings: Iterable[Reading]) -> list[dict[str, Tensor]]:
        """The columns of each tree, on the CPU; as many trees at once as memory is meant for."""
        self.model.eval()
        device = self.model.policy.device
        parts = list(within(EVALUATED, [tree.n_tokens for tree in trees]))
        batches = [on_device(collate_rankings([trees[i] for i in rows], self.layout), device) for rows in parts]
        found: list[dict[str, Tensor]] = [{} for _ in trees]
        for reading in readings:
            with whole(*reading.models), torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
                for rows, batch in zip(parts, batches, strict=True):
                    for name, values in reading.of(batch).items():
                        sizes = [len(trees[i].responses) if name == END_VALUES else trees[i].n_targets for i in rows]
                        for i, own in zip(rows, values.cpu().split(sizes), strict=True):
                            found[i][name] = own
        return found


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
