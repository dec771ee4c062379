"""Which checkpoint to keep: looks at held-out prompts, scored by a reward model that the policy does not learn from."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.errors import NumericsError
from models.finite import first_bad_weight
from models.generation import Sample
from models.partitioned import whole
from rl.config import RLConfig
from rl.experience import weighted
from rl.rollout import Question, RolloutEngine, Scorer

BEST = "best.safetensors"


class Selection:
    """Keeps the weights with the best referee score under the KL budget and the constraint, and tells when to stop.

    What each look saw stays in looks/<iteration>.json.
    """

    def __init__(
        self,
        folder: Path,
        engine: RolloutEngine,
        questions: Sequence[Question],
        referee: Scorer,
        cfg: RLConfig,
        *,
        text: Callable[[Sample], str],
        gold: Scorer | None = None,
    ) -> None:
        """gold: says the truth of an answer, where it is known; it is looked at, and chooses nothing."""
        self.folder, self.engine, self.questions = folder, engine, questions
        self.cfg, self.text = cfg, text
        self.judges = {"referee": referee, "proxy": engine.scorer, **({} if gold is None else {"gold": gold})}
        self.policy = engine.model.policy
        self.looks: list[dict[str, float]] = []
        self.best: dict[str, float] | None = None

    def look(self, iteration: int, rollout_kl: float, generators: Sequence[torch.Generator]) -> str | None:
        """Measure after every `evaluate_every` rollouts and after the last. Returns why the training is to stop, where
        it is: the KL budget is used up, or `patience` looks were no better."""
        budget = self.cfg.kl.budget
        over = budget is not None and rollout_kl > budget
        due = iteration % self.cfg.evaluate_every == 0 or iteration == self.cfg.rollouts or over
        if due and self.questions:
            found = self._measure(iteration, generators)
            self.looks.append(found)
            within = (budget is None or found["kl"] <= budget) and found.get("cost", -math.inf) <= self._limit()
            if within and (self.best is None or found["referee"] > self.best["referee"]):
                self.best = found
                self._keep()
        if over:
            return f"its KL of {rollout_kl:.2f} is above rl.kl.budget={budget:g}"
        return f"no better referee in rl.patience={self.cfg.patience} looks" if self._tired() else None

    def restore_best(self) -> str:
        """Give the policy its best weights back, the last ones where no look could choose. Returns which, in words."""
        if self.best is None:
            why = "no look was within the KL budget and the constraint" if self.looks else "no prompts are held out"
            return f"kept the last policy: {why}"
        with whole(self.policy, writing=True):  # with an adapter what is frozen is not in the file
            self.policy.load_state_dict(load_file(self.folder / BEST), strict=False)
        referee, kl = self.best["referee"], self.best["kl"]
        return f"kept the policy after rollout {self.best['iteration']}: referee {referee:.3f}, KL {kl:.2f}"

    def _keep(self) -> None:
        """The weights as they are, in the file of the best."""
        with whole(self.policy):
            if self.engine.ranks.rank == 0:  # copies, for DeepSpeed lays weights in one piece of memory
                state = {k: x.to("cpu", copy=True).contiguous() for k, x in self.policy.state_dict().items()}
                save_file(state, self.folder / BEST)

    def forget_best(self) -> None:
        """Its file has done its work."""
        (self.folder / BEST).unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        return {"looks": self.looks, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.looks, self.best = state["looks"], state["best"]

    def _limit(self) -> float:
        return math.inf if self.cfg.constraint.limit is None else self.cfg.constraint.limit

    def _tired(self) -> bool:
        if not self.cfg.patience or self.best is None:
            return False
        return sum(look["iteration"] > self.best["iteration"] for look in self.looks) >= self.cfg.patience

    @torch.no_grad()
    def _measure(self, iteration: int, generators: Sequence[torch.Generator]) -> dict[str, float]:
        answers = self.engine.answer(self.questions, 1, generators)
        by_judge = {name: torch.cat(self.engine.judge(judge, answers)) for name, judge in self.judges.items()}
        samples = [sample for a in answers for sample in a.samples]
        found = {"iteration": iteration, "kl": self._kl(iteration, torch.cat(self.engine.drift(answers)))}
        overall = {name: self._overall(self.judges[name], by_judge[name]) for name in self.judges}
        for name, values in overall.items():
            found[name] = float(values.mean())
            found[f"{name}_error"] = float(values.std(correction=0)) / len(values) ** 0.5
        found["ended"] = sum(s.ended for s in samples) / len(samples)
        if self.cfg.constraint.limit is not None:
            held = self.judges["proxy"].columns.index(self.cfg.constraint.axis)
            found["cost"] = -float(by_judge["proxy"][:, held].mean())
        if self.engine.ranks.rank == 0:
            self._write(found, samples, {name: values.tolist() for name, values in overall.items()})
        return found

    def _kl(self, iteration: int, kl: Tensor) -> float:
        """The mean over the prompts."""
        wrong = [q.number for q, ok in zip(self.questions, kl.isfinite().tolist(), strict=True) if not ok]
        if wrong:
            raise NumericsError(
                f"the look after rollout {iteration}: the log-probabilities of {len(wrong)} of {len(kl)} responses are "
                f"not numbers, first for held-out prompt {wrong[0]}{first_bad_weight(self.policy)}"
            )
        return float(kl.mean())

    def _overall(self, judge: Scorer, scores: Tensor) -> Tensor:
        """What each answer scores, all columns together."""
        weights = self.cfg.column_weights(judge.weights, progress=1.0)
        return weighted(scores, judge.columns, weights)

    def _write(self, found: dict[str, float], samples: Sequence[Sample], scores: dict[str, list[float]]) -> None:
        (self.folder / "looks").mkdir(exist_ok=True)
        answers = [
            {
                "prompt": question.prompt[-1].content,
                "text": self.text(sample),
                "ended": sample.ended,
                "scores": {name: values[i] for name, values in scores.items()},
            }
            for i, (question, sample) in enumerate(zip(self.questions, samples, strict=True))
        ]
        text = json.dumps({**found, "answers": answers}, ensure_ascii=False)
        (self.folder / "looks" / f"{int(found['iteration'])}.json").write_text(text, encoding="utf-8")
