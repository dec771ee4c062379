"""Which checkpoint to keep: looks at held-out prompts, scored by a reward model that the policy does not learn from."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor

from models.generation import Sample
from rl.config import RLConfig
from rl.rollout import Answers, Question, RolloutEngine, Scorer


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
    ) -> None:
        self.folder, self.engine, self.questions = folder, engine, questions
        self.referee, self.cfg, self.text = referee, cfg, text
        self.policy = engine.model.policy
        self.looks: list[dict[str, float]] = []
        self.best: dict[str, float] | None = None

    def look(self, iteration: int, rollout_kl: float, generators: Sequence[torch.Generator]) -> bool:
        """Measure after every `evaluate_every` rollouts and after the last. True where the training is to stop: the KL
        budget is used up, or `patience` looks were no better."""
        budget = self.cfg.kl.budget
        over = budget is not None and rollout_kl > budget
        due = iteration % self.cfg.evaluate_every == 0 or iteration == self.cfg.rollouts or over
        if due and self.questions:
            found = self._measure(iteration, generators)
            self.looks.append(found)
            within = (budget is None or found["kl"] <= budget) and found.get("cost", -math.inf) <= self._limit()
            if within and (self.best is None or found["referee"] > self.best["referee"]):
                self.best = found
                if self.engine.ranks.rank == 0:
                    save_model(self.policy, str(self.folder / "best.safetensors"))
        return over or self._tired()

    def restore_best(self) -> str:
        """Give the policy its best weights back, the last ones where no look could choose. Returns which, in words."""
        if self.best is None:
            why = "no look was within the KL budget and the constraint" if self.looks else "no prompts are held out"
            return f"kept the last policy: {why}"
        # With an adapter what is frozen is not in the file.
        load_model(self.policy, str(self.folder / "best.safetensors"), strict=False)
        referee, kl = self.best["referee"], self.best["kl"]
        return f"kept the policy after rollout {self.best['iteration']}: referee {referee:.3f}, KL {kl:.2f}"

    def forget_best(self) -> None:
        """Its file has done its work."""
        (self.folder / "best.safetensors").unlink(missing_ok=True)

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
        def work(part: Sequence[tuple[Question, torch.Generator]]) -> list[tuple[Answers, Tensor, Tensor, Tensor]]:
            answers = self.engine.generate([question for question, _ in part], 1, [g for _, g in part])
            scores = (judge(answers) for judge in (self.referee, self.engine.scorer))
            return list(zip(answers, *scores, self.engine.drift(answers), strict=True))

        seen = self.engine.ranks.spread(list(zip(self.questions, generators, strict=True)), work)
        answers, referee, proxy, kl = zip(*seen, strict=True)
        samples = [sample for a in answers for sample in a.samples]
        found = {
            "iteration": iteration,
            "referee": self._overall(self.referee, torch.stack(referee)),
            "proxy": self._overall(self.engine.scorer, torch.stack(proxy)),
            "kl": float(torch.cat(kl).mean()),
            "ended": sum(s.ended for s in samples) / len(samples),
        }
        if self.cfg.constraint.limit is not None:
            held = self.engine.scorer.columns.index(self.cfg.constraint.axis)
            found["cost"] = -float(torch.stack(proxy)[:, held].mean())
        if self.engine.ranks.rank == 0:
            self._write(found, samples)
        return found

    def _overall(self, judge: Scorer, scores: Tensor) -> float:
        weights = self.cfg.column_weights(judge.weights, progress=1.0)
        return float((scores @ torch.tensor([weights[name] for name in judge.columns])).mean())

    def _write(self, found: dict[str, float], samples: Sequence[Sample]) -> None:
        (self.folder / "looks").mkdir(exist_ok=True)
        answers = [
            {"prompt": question.prompt[-1].content, "text": self.text(s), "ended": s.ended}
            for question, s in zip(self.questions, samples, strict=True)
        ]
        text = json.dumps({**found, "answers": answers}, ensure_ascii=False)
        (self.folder / "looks" / f"{int(found['iteration'])}.json").write_text(text, encoding="utf-8")
