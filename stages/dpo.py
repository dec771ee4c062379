"""Preference optimisation: DPO and its family, on rankings.

python -m stages.dpo model.path=outputs/demo/sft data=kwise data.path=outputs/demo/reward/rankings.jsonl
python -m stages.dpo model.path=outputs/mine/sft data=hh data.path=harmless.jsonl loss.name=ipo_mean
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch

from models.adapters import AdapterConfig
from models.chat import ChatFormat
from models.layout import LayoutConfig
from models.loading import ModelConfig, load_policy, max_positions
from reward.rankings import Ranking
from reward.readers import RankingData, read_rankings
from reward.training import ranking_tree
from rl.pairs import PreferenceLoss, PreferenceObjective, PreferenceRows
from train.artifact import Artifact
from train.batches import ShuffledBatches
from train.entry import start
from train.evaluation import held_out
from train.run import Run, StageConfig
from train.sharding import Sharding
from train.trainer import TrainerConfig
from train.trl_engine import TRLEngine, check_engine, check_preference_loss


@dataclass(kw_only=True)
class DPOStage(StageConfig):
    """conf/dpo.yaml"""

    data: RankingData
    model: ModelConfig = field(default_factory=ModelConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    loss: PreferenceLoss = field(default_factory=PreferenceLoss)
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    deepspeed: Sharding = field(default_factory=Sharding)
    engine: str = "ours"  # ours, or trl: TRL's trainer from the same configuration

    def __post_init__(self) -> None:
        super().__post_init__()
        check_engine(self.engine, self.deepspeed, self.adapter, self.trainer)
        if self.engine == "trl":
            check_preference_loss(self.loss.name, self.loss.nll)


def run(cfg: DPOStage) -> Artifact:
    """Remember the reference's log-probabilities, train on all strict pairs, and seal the policy."""
    with Run(cfg, stage="dpo") as run:
        if run.sealed:
            return run.sealed
        folder = run.input(cfg.model.path, "policy")
        policy, tokenizer = load_policy(folder, cfg.model, cfg.adapter)
        chat, length = ChatFormat(tokenizer), cfg.layout.max_length or max_positions(policy)
        data = read_rankings(cfg.data)
        run.say(str(data))
        rows = preference_rows(data.train, chat, cfg.layout, length)
        batches = ShuffledBatches(
            rows, run.share(cfg.trainer), steps=cfg.trainer.steps(len(rows)), seed=cfg.seed, shuffle=cfg.trainer.shuffle
        )
        objective = PreferenceObjective(cfg.loss)
        held = preference_rows(data.eval, chat, cfg.layout, length) if data.eval else None
        reference = policy if cfg.adapter.starts_at_model else load_policy(folder, cfg.model)[0]
        measure = None
        if held:
            held.remember_reference(reference)
            measure = partial(held_out, policy, held, objective)
        if cfg.engine == "trl":
            TRLEngine(run, tokenizer, rows.trees, batches, cfg.trainer).preference(
                policy,
                load_policy(folder, cfg.model)[0],
                rows.preferences,
                loss=cfg.loss.name,
                beta=cfg.loss.beta,
                label_smoothing=cfg.loss.label_smoothing,
            )
            found = measure() if measure else {}
        else:
            rows.remember_reference(reference)
            found = run.train(policy, batches, objective, cfg.trainer, measure=measure)
        metrics = {"rankings": len(rows), "rankings_dropped": rows.n_dropped, **found}
        chat.configure(policy)
        return run.seal("policy", model=policy, tokenizer=tokenizer, metrics=metrics)


def preference_rows(rankings: list[Ranking], chat: ChatFormat, layout: LayoutConfig, max_length: int) -> PreferenceRows:
    """Rankings as rows with one score a response: the sum of its labelled axes."""
    trees = [ranking_tree(ranking, chat) for ranking in rankings]
    return PreferenceRows(trees, [overall(ranking) for ranking in rankings], layout, max_length)


def overall(ranking: Ranking) -> torch.Tensor:
    """(K,) sum over the axes on which every response of the ranking is labelled."""
    axes = [axis for axis in zip(*ranking.scores, strict=True) if None not in axis]
    return torch.tensor(axes, dtype=torch.float32).sum(0) if axes else torch.zeros(len(ranking.responses))


if __name__ == "__main__":
    start("dpo", DPOStage, run)
