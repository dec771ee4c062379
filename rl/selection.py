"""Which checkpoint to keep: looks at held-out prompts, scored by a reward model that the policy does not learn from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from transformers import PreTrainedModel

from models.chat import ChatFormat, Prompt
from models.generation import Sample
from models.layout import Tree
from rl.ppo import PPOConfig
from rl.rollout import RolloutEngine, Scorer


class Selection:
    """Keeps the weights with the best referee score under the KL budget.

    What each look saw stays in looks/<iteration>.json.
    """

    def __init__(
        self,
        folder: Path,
        policy: PreTrainedModel,
        engine: RolloutEngine,
        prompts: Sequence[Prompt],
        chat: ChatFormat,
        referee: Scorer,
        cfg: PPOConfig,
    ) -> None:
        self.folder, self.policy, self.engine = folder, policy, engine
        self.asked, self.chat, self.referee, self.cfg = prompts, chat, referee, cfg
        self.prompts = [chat.prompt(prompt) for prompt in prompts]
        self.looks: list[dict[str, float]] = []
        self.best: dict[str, float] | None = None

    def look(self, iteration: int, rollout_kl: float, generator: torch.Generator) -> bool:
        """Measure after every `evaluate_every` rollouts and after the last. True where the KL budget is used up."""
        budget = self.cfg.kl.budget
        over = budget is not None and rollout_kl > budget
        due = iteration % self.cfg.evaluate_every == 0 or iteration == self.cfg.rollouts or over
        if due and self.prompts:
            found = self._measure(iteration, generator)
            self.looks.append(found)
            within = budget is None or found["kl"] <= budget
            if within and (self.best is None or found["referee"] > self.best["referee"]):
                self.best = found
                save_model(self.policy, str(self.folder / "best.safetensors"))
        return over

    def restore_best(self) -> dict[str, float]:
        """Give the policy its best weights back; the last ones where nothing was measured."""
        path = self.folder / "best.safetensors"
        if self.best is None or not path.exists():
            return {"iteration": self.cfg.rollouts, "referee": float("nan"), "kl": float("nan")}
        load_model(self.policy, str(path), strict=False)  # with an adapter what is frozen is not in the file
        path.unlink()
        return self.best

    def state_dict(self) -> dict[str, Any]:
        return {"looks": self.looks, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.looks, self.best = state["looks"], state["best"]

    @torch.no_grad()
    def _measure(self, iteration: int, generator: torch.Generator) -> dict[str, float]:
        samples = self.engine.generate(self.policy, self.prompts, generator)
        trees = [Tree.of(prompt, [s.ids]) for prompt, s in zip(self.prompts, samples, strict=True)]
        weights = torch.tensor(self.cfg.axis_weights)
        found = {
            "iteration": iteration,
            "referee": float((self.referee(trees) @ weights).mean()),
            "proxy": float((self.engine.scorer(trees) @ weights).mean()),
            "kl": float(self.engine.drift(self.policy, trees).mean()),
            "ended": sum(s.ended for s in samples) / len(samples),
        }
        self._write(found, samples)
        return found

    def _write(self, found: dict[str, float], samples: Sequence[Sample]) -> None:
        (self.folder / "looks").mkdir(exist_ok=True)
        answers = [
            {"prompt": prompt[-1].content, "text": self.chat.text(s.ids), "ended": s.ended}
            for prompt, s in zip(self.asked, samples, strict=True)
        ]
        text = json.dumps({**found, "answers": answers}, ensure_ascii=False)
        (self.folder / "looks" / f"{int(found['iteration'])}.json").write_text(text, encoding="utf-8")
