"""The whole chain: base → sft → reward (and its referee) → ppo and dpo → evaluate → report.

    python -m stages.pipeline
    python -m stages.pipeline name=hot seed=1 ppo.rl.kl.coef=0.01

What is sealed and unchanged is skipped, what was cut off goes on, what changed is made again with all that follows.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

import stages.base
import stages.dpo
import stages.evaluate
import stages.ppo
import stages.report
import stages.reward
import stages.sft
from evals.results import estimates
from stages.base import BaseStage
from stages.dpo import DPOStage
from stages.evaluate import EvaluateStage
from stages.ppo import PPOStage
from stages.reward import RewardStage
from stages.sft import SFTStage
from train.artifact import Artifact
from train.entry import start
from train.tracking import TrackingConfig

ROWS = {
    "gold mean": "gold.mean",
    "  helpful": "gold.helpful",
    "  honest": "gold.honest",
    "  harmless": "gold.harmless",
    "gold mean, sampled": "sampled.gold.mean",
    "answerable and benign, helpful": "benign_helpful",
    "known facts, helpful": "known_facts",
    "benign how-to refused": "benign_refused",
    "learned reward": "reward.mean",
    "KL to sft": "kl",
    "zero-shot families": "zero_shot",
    "  with 3 examples": "few_shot",
    "perplexity of base text": "perplexity",
}
PARTS = {
    "base": BaseStage,
    "sft": SFTStage,
    "reward": RewardStage,
    "ppo": PPOStage,
    "dpo": DPOStage,
    "evaluate": EvaluateStage,
}


@dataclass(kw_only=True)
class Pipeline:
    """conf/pipeline.yaml"""

    base: BaseStage
    sft: SFTStage
    reward: RewardStage
    referee: RewardStage
    ppo: PPOStage
    dpo: DPOStage
    evaluate: EvaluateStage
    name: str = "demo"  # the experiment: outputs/<name>
    seed: int = 0
    referee_seed: int = 1000  # of the second reward model's samples, head and row order
    outputs: str = "outputs"
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    debug: bool = False  # show tracebacks


def run(cfg: Pipeline) -> Artifact:
    """Run every stage in order, write the report, and show the numbers."""
    started = time.time()
    stages.base.run(cfg.base)
    stages.sft.run(cfg.sft)
    stages.reward.run(cfg.reward)
    stages.reward.run(cfg.referee)
    stages.ppo.run(cfg.ppo)
    stages.dpo.run(cfg.dpo)
    evaluation = stages.evaluate.run(cfg.evaluate)
    report = stages.report.run(stages.report.ReportStage(name=cfg.name, outputs=cfg.outputs))
    Console().print(table(evaluation))
    print(f"results: {Path(cfg.outputs) / cfg.name / 'results.json'}\nreport:  {report}")
    print(f"{time.time() - started:.0f} s", file=sys.stderr)
    return evaluation


def table(evaluation: Artifact) -> Table:
    """Each model's means with the half-width of their 95 % intervals."""
    results = evaluation.manifest["metrics"]["results"]
    found = {name: estimates(results[name]) for name in evaluation.manifest["facts"]["models"]}
    shown = Table(title=f"{evaluation.folder.parent.name}: held-out prompts, greedy unless said")
    shown.add_column("")
    for name in found:
        shown.add_column(name, justify="right")
    for title, key in ROWS.items():
        cells = [flat.get(key) for flat in found.values()]
        shown.add_row(title, *(f"{e.mean:.3f} ±{(e.high - e.low) / 2:.3f}" if e else "–" for e in cells))
    return shown


if __name__ == "__main__":
    start("pipeline", Pipeline, run, parts=PARTS)
