"""Supervised instruction tuning.

python -m stages.sft model.path=outputs/demo/base data=world
python -m stages.sft model.path=/models/my-llama data=alpaca data.path=alpaca.json trainer.learning_rate=1e-5
"""

from __future__ import annotations

from dataclasses import dataclass, field

from instruct.readers import InstructionData
from instruct.sources import instructions, replay
from instruct.supervised import SupervisedRows, conversation_tree, document_trees, supervised
from models.adapters import AdapterConfig
from models.chat import ChatFormat
from models.layout import LayoutConfig
from models.loading import ModelConfig, load_policy, max_positions
from train.artifact import Artifact
from train.batches import ShuffledBatches
from train.entry import start
from train.evaluation import held_out
from train.run import Run, StageConfig
from train.sharding import Sharding
from train.trainer import TrainerConfig
from train.trl_engine import TRLEngine, check_engine


@dataclass(kw_only=True)
class SFTStage(StageConfig):
    """conf/sft.yaml"""

    data: InstructionData
    replay: InstructionData | None = None  # plain text learnt beside the conversations, so that nothing is forgotten
    model: ModelConfig = field(default_factory=ModelConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    deepspeed: Sharding = field(default_factory=Sharding)
    engine: str = "ours"  # ours, or trl: TRL's trainer from the same configuration

    def __post_init__(self) -> None:
        super().__post_init__()
        check_engine(self.engine, self.deepspeed, self.adapter)


def run(cfg: SFTStage) -> Artifact:
    """Train on the assistant's turns and their ends, and seal the policy."""
    with Run(cfg, stage="sft") as run:
        if run.sealed:
            return run.sealed
        policy, tokenizer = load_policy(run.input(cfg.model.path, "policy"), cfg.model, cfg.adapter)
        chat, length = ChatFormat(tokenizer), cfg.layout.max_length or max_positions(policy)
        data = instructions(cfg.data)
        run.say(str(data))
        trees = [conversation_tree(x.messages, chat) for x in data.train]
        trees += document_trees(replay(cfg.replay), tokenizer) if cfg.replay else []
        rows = SupervisedRows(trees, cfg.layout, length)
        batches = ShuffledBatches(
            rows, run.share(cfg.trainer), steps=cfg.trainer.steps(len(rows)), seed=cfg.seed, shuffle=cfg.trainer.shuffle
        )
        if cfg.engine == "trl":
            TRLEngine(run, tokenizer, rows.trees, batches, cfg.trainer).supervised(policy)
        else:
            run.train(policy, batches, supervised, cfg.trainer, sharding=cfg.deepspeed)
        metrics = {"rows": len(rows), "rows_dropped": rows.n_dropped}
        if data.eval:
            held = SupervisedRows([conversation_tree(x.messages, chat) for x in data.eval], cfg.layout, length)
            metrics |= held_out(policy, held, supervised)
        chat.configure(policy)
        return run.seal("policy", model=policy, tokenizer=tokenizer, metrics=metrics)


if __name__ == "__main__":
    start("sft", SFTStage, run)
