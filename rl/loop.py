"""One loop for every policy gradient:

    prompts → rollout → score → rewards → advantages → `epochs` passes of minibatches → β and λ → next prompts

Everything random is a function of the seed and of what it is for, so a run that goes on from any checkpoint, one inside
a rollout's updates included, does what the uninterrupted run does.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from models.errors import ConfigError, NumericsError
from models.finite import first_bad_weight
from models.generation import Sample
from models.layout import Batch
from models.objective import Rows
from rl.advantages import constant_groups
from rl.config import RLConfig
from rl.experience import Controls, Experience, experience, weighted
from rl.objective import PolicyObjective
from rl.rollout import Answers, Measured, Question, Rollout, RolloutEngine


class Minibatches(NamedTuple):
    """How an optimizer step's responses are dealt: over processes, then over micro-batches."""

    batch_size: int  # responses of a step
    accumulation: int = 1


class Finished(NamedTuple):
    """A rollout that was learnt from."""

    iteration: int
    step: int  # the optimizer step that was its last
    experience: Experience
    update: dict[str, float]  # means over its updates


@dataclass(kw_only=True)
class RLBatches:
    """Batches that refill themselves.

    The trainer tells `after_step` of every optimizer step, before a checkpoint is saved. After the last one of a
    rollout `after_update(finished)` is told, which ends the training by returning True. Iterations count from 1.
    """

    engine: RolloutEngine
    pool: Sequence[Question]
    cfg: RLConfig
    objective: PolicyObjective
    controls: Controls
    minibatches: Minibatches
    seed: int
    ptx: Rows | None
    after_update: Callable[[Finished], bool]
    start_step: int = 0  # set by the trainer; where to go on is in the state
    iteration: int = 0  # rollouts that are done
    position: int = 0  # steps on the current one that are done
    stopped: bool = False
    current: Experience | None = None
    update_seconds: float = 0.0
    update_sums: dict[str, tuple[float, float]] = field(default_factory=dict)  # of each metric, with their counts

    def __post_init__(self) -> None:
        batch_size, accumulation = self.minibatches
        group, world, n_responses = self.cfg.samples, self.engine.ranks.world, self.cfg.prompts * self.cfg.samples
        if batch_size % (group * world * accumulation) or n_responses % batch_size:
            raise ConfigError(
                f"trainer.batch_size={batch_size}: expected to divide rl.prompts × rl.samples = {n_responses}, and be "
                f"a multiple of rl.samples × processes × trainer.accumulation = {group} × {world} × {accumulation}"
            )

    @property
    def steps_per_rollout(self) -> int:
        return self.cfg.epochs * (self.cfg.prompts * self.cfg.samples // self.minibatches.batch_size)

    def __len__(self) -> int:
        return self.cfg.rollouts * self.steps_per_rollout * self.minibatches.accumulation

    def __iter__(self) -> Iterator[Batch]:
        while self.iteration < self.cfg.rollouts and not self.stopped:
            if self.current is None:
                self.current = self._experience()
            yield from self._updates(self.current)

    def after_step(self, step: int) -> None:
        """One step more. Closes a rollout after its last: metrics, β, λ, and whether to go on."""
        kl_of_step = self._add(self.objective.step_metrics())
        self.position += 1
        self.update_seconds += time.perf_counter() - self.step_started
        limit = self.cfg.max_update_kl
        if self.position < self.steps_per_rollout and (limit is None or kl_of_step <= limit):
            return
        found, self.iteration = self.current, self.iteration + 1
        found.rollout.seconds["update"] = self.update_seconds
        finished = Finished(self.iteration, step, found, means(self.update_sums))
        stopped = self.after_update(finished)
        n, kl = len(found.kl), float(found.kl.mean())
        self.controls.kl.update(kl, n, float(found.kl.std(correction=0)) / n**0.5)
        if self.controls.lagrangian is not None:
            self.controls.lagrangian.update(float(found.cost.mean()))
        self.current, self.position, self.update_seconds, self.update_sums = None, 0, 0.0, {}
        self.stopped = stopped

    def _add(self, step: dict[str, tuple[float, float]]) -> float:
        """A step's metrics; what is no number is left out, as the step is. Returns the step's KL(old || new), nats per
        token (k3)."""
        for name, (total, count) in step.items():
            if math.isfinite(total):
                before = self.update_sums.get(name, (0.0, 0.0))
                self.update_sums[name] = before[0] + total, before[1] + count
        total, count = step["policy/approx_kl"]
        return total / count

    def state_dict(self) -> dict[str, Any]:
        where = {"iteration": self.iteration, "position": self.position, "stopped": self.stopped}
        return {**where, "update_sums": self.update_sums, "controls": self.controls.state_dict()}

    def load_state_dict(self, state: dict[str, Any], experience_file: Path) -> None:
        self.iteration, self.position, self.stopped = state["iteration"], state["position"], state["stopped"]
        self.update_sums = {name: tuple(found) for name, found in state["update_sums"].items()}
        self.controls.load_state_dict(state["controls"])
        self.current = self._read(experience_file) if self.position else None

    def write(self, experience_file: Path) -> None:
        """The rollout that is being learnt from; nothing between two rollouts."""
        if self.current is None or not self.position:
            return
        found, rollout = self.current, self.current.rollout
        numbers = {name: value for name, value in vars(found).items() if name != "rollout"}
        whole = {name: value for name, value in vars(rollout).items() if name != "answers"}
        asked = [answers.question.number for answers in rollout.answers]
        samples = [[tuple(s) for s in answers.samples] for answers in rollout.answers]
        torch.save({"experience": numbers, "rollout": whole, "asked": asked, "samples": samples}, experience_file)

    def _read(self, experience_file: Path) -> Experience:
        saved = torch.load(experience_file, weights_only=True)
        asked = zip(saved["asked"], saved["samples"], strict=True)
        answers = [Answers(self.pool[i], [Sample(*s) for s in samples]) for i, samples in asked]
        return Experience(rollout=Rollout(answers=answers, **saved["rollout"]), **saved["experience"])

    def _experience(self) -> Experience:
        """The next rollout and what it earned."""
        scorer, progress = self.engine.scorer, self.iteration / max(1, self.cfg.rollouts - 1)
        weights = self.cfg.column_weights(scorer.weights, progress)
        seconds: dict[str, float] = {}
        measured = self._collect(self._questions(), "", seconds)
        for refill in range(self.cfg.refills):
            measured = self._refilled(measured, refill, weights, seconds)
        found = experience(Rollout.of(measured, seconds), self.cfg, self.controls, scorer.columns, weights)
        check_numbers(found, self.iteration + 1, self.engine.model)
        return found

    def _collect(self, questions: Sequence[Question], purpose: str, seconds: dict[str, float]) -> list[Measured]:
        generators = [self._generator(f"sample {purpose}", i) for i in range(len(questions))]
        return self.engine.collect(questions, self.cfg.samples, generators, seconds)

    def _refilled(
        self, measured: list[Measured], refill: int, weights: Mapping[str, float], seconds: dict[str, float]
    ) -> list[Measured]:
        """Groups of equal scores teach nothing: others' in their place."""
        scores = [weighted(m.scores, self.engine.scorer.columns, weights) for m in measured]
        equal = [bool(constant_groups(s, group_size=self.cfg.samples)) for s in scores]
        if not any(equal):
            return measured
        chosen = torch.randint(len(self.pool), (sum(equal),), generator=self._generator(f"refill {refill}"))
        fresh = self._collect([self.pool[i] for i in chosen.tolist()], f"refill {refill}", seconds)
        instead = iter(fresh)
        return [next(instead) if old else m for m, old in zip(measured, equal, strict=True)]

    def _updates(self, found: Experience) -> Iterator[Batch]:
        """The micro-batches of this process, from the current position on."""
        iteration, shuffler = self.iteration, self._generator("shuffle")
        per_step = self.minibatches.batch_size // self.cfg.samples
        position = 0
        for _ in range(self.cfg.epochs):
            order = torch.randperm(len(found.rollout.answers), generator=shuffler).tolist()
            for start in range(0, len(order), per_step):
                text = self._text_rows(shuffler)
                if position == self.position and iteration == self.iteration:
                    yield from self._step(found, order[start : start + per_step], text, first=position == 0)
                position += 1

    def _step(self, found: Experience, trees: list[int], text: list[int], *, first: bool) -> Iterator[Batch]:
        self.step_started = time.perf_counter()
        ranks, parts = self.engine.ranks, self.engine.ranks.world * self.minibatches.accumulation
        for micro in range(self.minibatches.accumulation):
            part = ranks.rank * self.minibatches.accumulation + micro
            batch = found.collate(
                trees[part::parts], self.engine.layout, self.cfg.kind.aggregation, self.cfg.max_new_tokens
            )
            batch |= {"first": torch.tensor(first), "kl_coef": torch.tensor(self.controls.kl.coef)}
            yield self._with_text(batch, text[part::parts])

    def _text_rows(self, generator: torch.Generator) -> list[int]:
        if self.ptx is None:
            return []
        return torch.randint(len(self.ptx), (self.cfg.ptx_batch_size,), generator=generator).tolist()

    def _with_text(self, batch: Batch, rows: list[int]) -> Batch:
        if not rows:
            return {**batch, "units": torch.cat([batch["units"], torch.zeros(1)])}
        text = self.ptx.collate(rows)
        units = torch.cat([batch["units"], text.pop("units")[:1].float()])
        return {**batch, "units": units, **{f"ptx_{name}": value for name, value in text.items()}}

    def _questions(self) -> list[Question]:
        """The pool in shuffled passes."""
        n, first = len(self.pool), self.iteration * self.cfg.prompts
        passes = range(first // n, (first + self.cfg.prompts - 1) // n + 1)
        order = [i for p in passes for i in torch.randperm(n, generator=_generator(self.seed, "pass", p)).tolist()]
        offset = first - passes.start * n
        return [self.pool[i] for i in order[offset : offset + self.cfg.prompts]]

    def _generator(self, purpose: str, index: int = 0) -> torch.Generator:
        return _generator(self.seed, self.iteration, purpose, index)


def check_numbers(found: Experience, iteration: int, model: nn.Module) -> None:
    """Before anything is learnt from it. Scores were checked by what gave them."""
    wrong = [row for row, ok in enumerate(found.kl.isfinite().tolist()) if not ok]
    if wrong:
        question = found.rollout.answers[wrong[0] // found.rollout.group_size].question
        raise NumericsError(
            f"rollout {iteration}: the log-probabilities of {len(wrong)} of {len(found.kl)} responses are not numbers, "
            f"first for prompt {question.number}{first_bad_weight(model)}"
        )


def means(sums: dict[str, tuple[float, float]]) -> dict[str, float]:
    return {name: total / count for name, (total, count) in sums.items() if count}


def _generator(*purpose: object) -> torch.Generator:
    """Random numbers of one purpose."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(repr(purpose).encode()).digest()[:7]))
