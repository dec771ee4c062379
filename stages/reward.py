"""The three-axis reward model, from rankings.

python -m stages.reward model.path=outputs/demo/sft data=sampled
python -m stages.reward model.path=outputs/mine/sft data=hh data.path=harmless.jsonl
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from transformers import PreTrainedModel

from evals.intervals import bootstrap_mean
from instruct.sources import WORLD
from models.adapters import AdapterConfig, adapt
from models.chat import ChatFormat
from models.errors import ConfigError
from models.layout import LayoutConfig
from models.loading import ModelConfig, load_policy, max_positions
from models.options import RUNTIME
from models.scorer import raw_scores, reward_model_from
from reward.assessment import is_own_sample, outcomes
from reward.calibration import affine_stats, calibrate
from reward.rankings import write_rankings
from reward.readers import RankingData, read_rankings
from reward.sampling import SAMPLED, SamplingConfig
from reward.training import RankingObjective, RankingRows, RewardLoss
from stages.sampled_rankings import sampled_rankings
from train.artifact import Artifact
from train.batches import ShuffledBatches
from train.entry import start
from train.evaluation import held_out
from train.run import Run, StageConfig
from train.sharding import Sharding
from train.trainer import TrainerConfig
from train.trl_engine import TRLEngine, check_engine


@dataclass(kw_only=True)
class RewardStage(StageConfig):
    """conf/reward.yaml"""

    data: RankingData
    role: str = field(default="reward", metadata=RUNTIME)  # its folder; a second reward model referees the first
    model: ModelConfig = field(default_factory=ModelConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)  # read where data=sampled
    loss: RewardLoss = field(default_factory=RewardLoss)
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    deepspeed: Sharding = field(default_factory=Sharding)
    engine: str = "ours"  # ours, or trl: TRL's trainer from the same configuration, on pairs of one axis

    def __post_init__(self) -> None:
        super().__post_init__()
        check_engine(self.engine, self.deepspeed, self.adapter, self.trainer)
        if self.engine == "trl" and self.data.path == WORLD:
            raise ConfigError("engine=trl takes pairs on one axis, the world's rankings are longer; use engine=ours")


def run(cfg: RewardStage) -> Artifact:
    """Rank, train, normalise, measure on held-out prompts, and seal the reward model."""
    with Run(cfg, stage=cfg.role) as run:
        if run.sealed:
            return run.sealed
        folder = run.input(cfg.model.path, "policy")
        policy, tokenizer = load_policy(folder, cfg.model)
        chat, length = ChatFormat(tokenizer), cfg.layout.max_length or max_positions(policy)
        if cfg.data.path == WORLD:
            train, held, facts = sampled_rankings(policy, tokenizer, cfg.sampling, cfg.data.seed, run)
        else:
            data = read_rankings(cfg.data)
            run.say(str(data))
            train, held, facts = data.train, data.eval, {"reading": str(data)}
        run.write("rankings.jsonl", lambda path: write_rankings(path, train))
        run.write("held_out.jsonl", lambda path: write_rankings(path, held))
        rows = RankingRows(train, chat, cfg.layout, length)
        held_rows = RankingRows(held, chat, cfg.layout, length) if held else None
        objective, found = RankingObjective(cfg.loss), {}
        model = adapt(reward_model_from(policy, tokenizer, run.generator("head")), cfg.adapter, base=folder)
        batches = ShuffledBatches(
            rows, run.share(cfg.trainer), steps=cfg.trainer.steps(len(rows)), seed=cfg.seed, shuffle=cfg.trainer.shuffle
        )
        if cfg.engine == "trl":
            engine = TRLEngine(run, tokenizer, rows.trees, batches, cfg.trainer)
            engine.reward(model, rows.labels, center=cfg.loss.center)
        else:
            measure = partial(held_out, model, held_rows, objective) if held_rows and cfg.trainer.eval_every else None
            found = run.train(model, batches, objective, cfg.trainer, measure=measure)
        normalise(model, rows)
        metrics: dict[str, object] = {"rankings": len(rows), "rankings_dropped": rows.n_dropped, **found}
        if held_rows:
            metrics |= measured(model, held_rows, run)
        return run.seal("reward", model=model, tokenizer=tokenizer, metrics=metrics, facts=facts)


@torch.no_grad()
def normalise(model: PreTrainedModel, rows: RankingRows, n: int = 512) -> None:
    """Mean and spread of each axis on reference completions go into the model's config: the policy's own samples where
    the rankings name them, all responses otherwise."""
    scores = scores_of(model, rows, range(min(n, len(rows))))
    own = [source == SAMPLED for r in rows.rankings[:n] for source in r.sources]
    stats = affine_stats(scores[torch.tensor(own)] if sum(own) > 1 else scores)
    model.config.reward_mean, model.config.reward_std = list(stats.mean), list(stats.std)


@torch.no_grad()
def scores_of(model: PreTrainedModel, rows: RankingRows, indices: range, batch_size: int = 32) -> torch.Tensor:
    """Raw scores of all responses of some rankings, in order, (responses, axes)."""
    model.eval()
    parts = []
    for first in range(0, len(indices), batch_size):
        batch = rows.collate(indices[first : first + batch_size])
        parts.append(raw_scores(model, {k: v.to(model.device) for k, v in batch.items()}).cpu())
    return torch.cat(parts)


def measured(model: PreTrainedModel, rows: RankingRows, run: Run) -> dict[str, object]:
    """Per axis: accuracy on held-out rankings, on the policy's own samples alone, and calibration."""
    scores = scores_of(model, rows, range(len(rows))).split([len(r.responses) for r in rows.rankings])
    whole = outcomes(rows.rankings, scores)
    own = outcomes(rows.rankings, scores, is_own_sample)
    found: dict[str, object] = {}
    for axis, outcome in whole.items():
        accuracy = bootstrap_mean(outcome.per_prompt)
        found[axis] = {"accuracy": accuracy.as_dict(), **calibration_of(outcome.deltas)}
        line = f"{axis}: held-out accuracy {accuracy.mean:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}]"
        if axis in own:
            samples = bootstrap_mean(own[axis].per_prompt)
            found[axis] |= {"own_samples": samples.as_dict()}
            line += f", on the policy's own samples {samples.mean:.3f}"
        run.say(line)
    return {"held_out": found}


def calibration_of(deltas: torch.Tensor) -> dict[str, object]:
    """The temperature from one half of the pairs, judged on the other."""
    if len(deltas) < 4:
        return {}
    found = calibrate(deltas[::2], deltas[1::2])
    bins = [
        {"confidence": c, "accuracy": a, "count": n}
        for c, a, n in zip(*(x.tolist() for x in found.bins[1:]), strict=True)
        if n
    ]
    return {
        "temperature": found.temperature,
        "calibration_error": found.after.ece,
        "calibration_error_before": found.before.ece,
        "bins": bins,
    }


if __name__ == "__main__":
    start("reward", RewardStage, run)
