"""The embedded world as a panel of held-out prompts whose truth is known."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from evals.intervals import bootstrap_perplexity
from evals.panel import Answers, Nested, share
from evals.subject import Response, Subject
from instruct.sources import asked
from instruct.world import Task, World, is_refusal, judge
from models.chat import Message, Prompt
from models.generation import Sample
from rl.rollout import Answers as RLAnswers
from rl.rollout import Question
from train.artifact import read_artifact

N_EXAMPLES = 3  # of a few-shot prompt


class WorldPanel:
    """Test tasks of every family, three families that nothing was trained on, and base text for forgetting."""

    def __init__(self, seed: int, per_family: int) -> None:
        self.world = World(seed)
        self.tasks = self.world.tasks("test", per_family)
        self.new_tasks = self.world.zero_shot_tasks("test", per_family)
        self.examples = self.world.zero_shot_tasks("dev", 16)
        self.documents = self.world.held_out_documents(400)

    @property
    def prompts(self) -> list[Prompt]:
        return asked(self.tasks)

    def gold(self, responses: Sequence[Response]) -> Tensor:
        """Helpful, honest and harmless of each response to the panel's prompts, (n, 3)."""
        return gold(self.tasks, responses)

    def extras(self, model: Subject, greedy: Answers) -> Nested:
        """Subsets, families never trained on (without and with examples), and perplexity on base text."""
        return {
            **self.subsets(greedy),
            "zero_shot": share(self._new(model, asked(self.new_tasks))),
            "few_shot": share(self._new(model, [self._with_examples(task) for task in self.new_tasks])),
            "perplexity": bootstrap_perplexity(model.document_nll(self.documents)).as_dict(),
        }

    def subsets(self, answers: Answers) -> Nested:
        """What the averages hide: alignment tax, over-refusal, facts, and every family."""
        found: Nested = {name: share(values) for name, values in self._values(answers).items()}
        families = dict.fromkeys(task.family for task in self.tasks)
        per_family = answers.gold.mean(1)
        found["family"] = {
            family: share([float(s) for t, s in zip(self.tasks, per_family, strict=True) if t.family == family])
            for family in families
        }
        return found

    def subset_gains(self, ours: Answers, theirs: Answers) -> Nested:
        """Paired differences on the subsets."""
        own, other = self._values(ours), self._values(theirs)
        return {name: share([a - b for a, b in zip(own[name], other[name], strict=True)]) for name in own}

    def frontiers(self, models: Mapping[str, str]) -> Nested:
        """Of each model that was looked at while it trained: KL, learned and gold reward of every look."""
        found: Nested = {}
        for name, path in models.items():
            files = sorted(Path(path).glob("looks/*.json"), key=lambda p: int(p.stem))
            if files:
                best = read_artifact(Path(path), verify=False).manifest["metrics"]["kept"]
                kept = best and best["iteration"]
                looks = [json.loads(file.read_text(encoding="utf-8")) for file in files]
                tasks = development_tasks(self.world, {a["prompt"] for look in looks for a in look["answers"]})
                found[name] = [{**_frontier_point(tasks, look), "kept": look["iteration"] == kept} for look in looks]
        return found

    def _values(self, answers: Answers) -> dict[str, list[float]]:
        refused = torch.tensor([float(is_refusal(r.text)) for r in answers.responses])
        helpful, honest = answers.gold[:, 0], answers.gold[:, 1]

        def over(values: Tensor, holds: Callable[[Task], bool]) -> list[float]:
            return [float(v) for task, v in zip(self.tasks, values, strict=True) if holds(task)]

        return {
            "benign_helpful": over(helpful, lambda t: t.kind in ("answerable", "borderline")),
            "known_facts": over(helpful, lambda t: t.known_fact),
            "benign_refused": over(refused, lambda t: t.kind == "borderline" or t.family == "how_to"),
            "harmful_refused": over(refused, lambda t: t.kind == "harmful"),
            "unknown_admitted": over(honest, lambda t: t.kind == "unanswerable"),
        }

    def _new(self, model: Subject, prompts: Sequence[Prompt]) -> list[float]:
        responses = model.respond(prompts, temperature=0.0)
        return gold(self.new_tasks, responses)[:, 0].tolist()

    def _with_examples(self, task: Task) -> Prompt:
        same = [t for t in self.examples if t.family == task.family]
        chosen = random.Random(task.id).sample(same, N_EXAMPLES)
        turns = [m for t in chosen for m in (Message("user", t.prompt), Message("assistant", t.answers[0]))]
        return (*turns, Message("user", task.prompt))


def development_tasks(world: World, prompts: set[str]) -> dict[str, Task]:
    """Development tasks by prompt, as many as hold these prompts of the world; drawing many takes seconds."""
    per_family, tasks = 16, {}
    while not prompts <= tasks.keys() and per_family < 1024:
        per_family *= 2
        tasks = {task.prompt: task for task in world.tasks("dev", per_family)}
    return tasks


@dataclass(frozen=True)
class WorldGold:
    """A scorer of RL that knows the truth: the mean of helpful, honest and harmless."""

    tasks: Mapping[str, Task]  # by prompt
    text: Callable[[Sample], str]
    columns: tuple[str, ...] = ("gold",)
    weights: Mapping[str, float] = field(default_factory=lambda: {"gold": 1.0})

    def __call__(self, answers: Sequence[RLAnswers]) -> Tensor:
        """(responses in order, 1)."""
        asked = [(self.tasks[a.question.prompt[-1].content], s) for a in answers for s in a.samples]
        judged = [judge(task, self.text(s), s.ended) for task, s in asked]
        return torch.tensor(judged).view(-1, 3).mean(1, keepdim=True)


def world_gold(seed: int, questions: Sequence[Question], text: Callable[[Sample], str]) -> WorldGold:
    """The truth of development prompts of the world."""
    return WorldGold(development_tasks(World(seed), {q.prompt[-1].content for q in questions}), text)


def gold(tasks: Sequence[Task], responses: Sequence[Response]) -> Tensor:
    """The truth's judgement, (n, 3)."""
    return torch.tensor([judge(t, r.text, r.ended) for t, r in zip(tasks, responses, strict=True)])


def _frontier_point(tasks: Mapping[str, Task], look: Nested) -> Nested:
    answers = [(tasks[a["prompt"]], a["text"], a["ended"]) for a in look["answers"] if a["prompt"] in tasks]
    scores = torch.tensor([judge(task, text, ended) for task, text, ended in answers])
    means = scores.mean(0).tolist() if len(answers) else [float("nan")] * 3
    point = {key: look[key] for key in ("iteration", "kl", "proxy", "referee")}
    return {**point, "gold": sum(means) / 3, "n": len(answers)}
