"""The three-axis reward model, from rankings.

python -m stages.reward model.path=outputs/demo/sft data=sampled
python -m stages.reward model.path=outputs/mine/sft data=hh data.path=harmless.jsonl
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from transformers import PreTrainedModel

from instruct.sources import WORLD
from models.adapters import AdapterConfig, adapt
from models.chat import ChatFormat
from models.errors import ConfigError
from models.layout import LayoutConfig
from models.loading import ModelConfig, load_policy, load_tokenizer, max_positions
from models.options import RUNTIME
from models.scorer import AXES, reward_model_from, without_length
from reward.assessment import scored_pairs
from reward.calibration import affine_stats, length_slope
from reward.rankings import write_rankings
from reward.readers import RankingData, RankingSplit, read_rankings
from reward.sampling import SAMPLED, SamplingConfig
from reward.training import RankingObjective, RankingRows, RewardLoss
from stages.reward_quality import measured, scored_rankings
from stages.sampled_rankings import sampled_rankings
from train.artifact import Artifact
from train.batches import ShuffledBatches
from train.config import StageConfig
from train.entry import start
from train.evaluation import held_out
from train.run import Run
from train.sharding import Sharding
from train.trainer import TrainerConfig
from train.training import train
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
    deepspeed: Sharding = field(default_factory=Sharding, metadata=RUNTIME)
    length_control: bool = False  # scores are less what length explains at equal labels, fitted on training rankings
    engine: str = "ours"  # ours, or trl: TRL's trainer from the same configuration, on pairs of one axis

    def __post_init__(self) -> None:
        super().__post_init__()
        check_engine(self.engine, self.deepspeed, self.adapter, self.trainer)
        if self.engine == "trl" and self.data.path == WORLD:
            raise ConfigError("engine=trl takes pairs on one axis, the world's rankings are longer; use engine=ours")
        if self.engine == "trl" and self.loss != RewardLoss(center=self.loss.center):
            raise ConfigError("engine=trl has loss.center alone of the options of loss; use engine=ours for the others")


def run(cfg: RewardStage) -> Artifact:
    """Rank, train, normalise, measure on held-out prompts, and seal the reward model."""
    with Run(cfg, stage=cfg.role) as run:
        if run.sealed:
            return run.sealed
        folder = run.input(cfg.model.path, "policy")
        policy, tokenizer = load_policy(folder, cfg.model)
        chat, length = ChatFormat(tokenizer), cfg.layout.max_length or max_positions(policy)
        if cfg.data.path == WORLD:
            rankings, held, facts = sampled_rankings(policy, tokenizer, cfg.sampling, cfg.data.seed, run)
        else:
            data = read_rankings(cfg.data)
            run.say(str(data))
            rankings, held, facts = data.train, data.eval, facts_of(data)
        run.write("rankings.jsonl", lambda path: write_rankings(path, rankings))
        run.write("held_out.jsonl", lambda path: write_rankings(path, held))
        rows = RankingRows(rankings, chat, cfg.layout, length, cfg.loss)
        held_rows = RankingRows(held, chat, cfg.layout, length, cfg.loss) if held else None
        objective = RankingObjective(cfg.loss)
        found: dict[str, object] = {}
        new_tokens = range(len(load_tokenizer(folder, cfg.model)), len(tokenizer))  # of chat, where the base has none
        model = reward_model_from(policy, tokenizer, run.generator("head"))
        model = adapt(model, cfg.adapter, new_tokens, base=folder)
        batches = ShuffledBatches(
            rows, run.share(cfg.trainer), steps=cfg.trainer.steps(len(rows)), seed=cfg.seed, shuffle=cfg.trainer.shuffle
        )
        if cfg.engine == "trl":
            engine = TRLEngine(run, tokenizer, rows.trees, batches, cfg.trainer)
            engine.reward(model, rows.labels_of_one_judge(), center=cfg.loss.center)
        else:
            measure = None
            if held_rows and cfg.trainer.eval_every:
                measure = partial(held_out, model, held_rows, objective, batch_size=batches.share.rows)
            found |= train(run, model, batches, objective, cfg.trainer, measure=measure)
        for axis in normalise(model, rows, length_control=cfg.length_control):
            run.say(f"{axis}: all reference completions score the same; its scores say nothing")
        found |= measured(model, held_rows, chat, run) if held_rows else {}
        dropped = {"rankings_dropped": rows.n_dropped, "rankings_cut_alike": rows.n_alike}
        metrics = {"rankings": len(rows), **dropped, **found}
        return run.seal("reward", model=model, tokenizer=tokenizer, metrics=metrics, facts=facts)


def normalise(model: PreTrainedModel, rows: RankingRows, *, length_control: bool, n: int = 512) -> list[str]:
    """Mean and spread of each axis on reference completions go into the model's config: the policy's own samples where
    the rankings name them, all responses otherwise. length_control: what length explains goes there too, and is taken
    off. Returns the axes whose scores are all the same."""
    scored = scored_rankings(model, rows, range(min(n, len(rows))))
    scores, lengths = torch.cat([one.scores for one in scored]), torch.cat([one.lengths for one in scored])
    if length_control:
        pairs = [scored_pairs(scored, axis, ties=True) for axis in range(len(AXES))]
        model.config.reward_length_slope = [length_slope(p.delta, p.longer, p.strength) for p in pairs]
        model.config.reward_length_mean = float(lengths.double().mean())
        scores = without_length(model, scores, lengths)
    own = torch.tensor([source == SAMPLED for one in scored for source in one.ranking.sources])
    stats = affine_stats(scores[own] if own.sum() > 1 else scores)
    model.config.reward_mean, model.config.reward_std = list(stats.mean), list(stats.std)
    return [axis for axis, column in zip(AXES, scores.T, strict=True) if (column == column[0]).all()]


def facts_of(data: RankingSplit) -> dict[str, object]:
    """What was read and dropped, and how far judges agree, for the manifest."""
    return {
        "reading": str(data),
        "data": [reading.counts() for reading in data.readings],
        "agreement": data.agreement.as_dict(),
    }


if __name__ == "__main__":
    start("reward", RewardStage, run)
