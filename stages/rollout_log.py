"""What is seen while a policy learns: log, alerts, and beside the log what is no number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rl.alerts import Alerts
from rl.config import RLConfig
from rl.experience import Controls
from rl.loop import Finished
from rl.selection import Selection
from rl.watch import rollout_metrics, rollout_record
from train.processes import rank
from train.run import Run


@dataclass
class RolloutLog:
    """Tells of every rollout: a line in metrics.jsonl, a line for the person who waits, and what begins to worry.

    Every `evaluate_every` rollouts, and of the first, rollouts/<iteration>.json keeps each response's KL, score and
    length, and some responses.
    """

    run: Run
    cfg: RLConfig
    controls: Controls
    columns: Sequence[str]
    selection: Selection

    def __post_init__(self) -> None:
        limit, kl = self.cfg.alerts.kl, self.cfg.kl
        self.alerts = Alerts(self.cfg.alerts, min(limit, 3 * kl.target) if kl.adaptive else limit)

    def start(self) -> None:
        """The look at the policy as it is before any rollout."""
        self.run.begin_log()
        self._look(0, 0.0)
        self._log_look(step=0)

    def finished(self, found: Finished) -> bool:
        """Log a rollout, take the look that may be due, and tell whether the training is to stop."""
        i, n_looks = found.iteration, len(self.selection.looks)
        metrics = {**rollout_metrics(found.experience, self.controls, self.columns), **found.update}
        self.run.log(metrics, found.step)
        self.run.say(
            f"rollout {i}: score {metrics['objective/score']:.3f}, KL {metrics['objective/kl']:.2f}, "
            f"length {metrics['response/length']:.1f}, ended {metrics['response/ended']:.0%}"
        )
        if rank() == 0 and (i == 1 or i % self.cfg.evaluate_every == 0 or i == self.cfg.rollouts):
            self._keep(rollout_record(i, found.experience, self.columns, self.selection.text), found.step)
        why = self._look(i, metrics["objective/kl"])
        if len(self.selection.looks) > n_looks:
            self._log_look(found.step)
        for alert in self.alerts.after_rollout(i, metrics, self.selection.looks):
            self.run.warn(alert.name, f"after rollout {i}: {alert.text}")
        if why is not None:
            self.run.say(f"stopped after rollout {i}: {why}")
        return why is not None

    def told(self) -> list[dict[str, Any]]:
        """The alerts, for the manifest."""
        return [alert._asdict() for alert in self.alerts.said]

    def _look(self, iteration: int, kl: float) -> str | None:
        generators = [
            self.run.generator(f"look {iteration} {question.number}") for question in self.selection.questions
        ]
        return self.selection.look(iteration, kl, generators)

    def _log_look(self, step: int) -> None:
        if self.selection.looks:
            newest = self.selection.looks[-1]
            self.run.log({f"held_out/{name}": value for name, value in newest.items() if name != "iteration"}, step)

    def _keep(self, record: dict[str, Any], step: int) -> None:
        folder = self.run.folder / "rollouts"
        folder.mkdir(exist_ok=True)
        text = json.dumps(record, ensure_ascii=False)
        (folder / f"{record['iteration']}.json").write_text(text, encoding="utf-8")
        for name in ("kl", "score", "length"):
            self.run.tracker.histogram(f"rollout/{name}", record[name], step)
        rows = [{**{k: v for k, v in s.items() if k != "scores"}, **s["scores"]} for s in record["samples"]]
        self.run.tracker.table("rollout/samples", rows, step)
