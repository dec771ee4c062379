"""Supervised instruction tuning.

python -m stages.sft model.path=outputs/demo/base data=world
python -m stages.sft model.path=/models/my-llama data=alpaca data.path=alpaca.json trainer.learning_rate=1e-5
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

from transformers import PreTrainedTokenizerBase

from instruct.mixture import draw
from instruct.readers import InstructionData, Part, stream_instructions
from instruct.records import Instruction
from instruct.sources import holds_text, instructions, one_source, replay
from instruct.supervised import (
    StreamedRows,
    SupervisedRows,
    conversation_tree,
    document_trees,
    supervised_by_source,
)
from models.adapters import AdapterConfig
from models.chat import ChatFormat
from models.errors import ConfigError
from models.layout import LayoutConfig
from models.loading import ModelConfig, load_policy, max_positions
from models.options import RUNTIME
from models.split import Stream
from train.artifact import Artifact
from train.batches import ShuffledBatches, StreamedBatches
from train.config import StageConfig
from train.entry import start
from train.evaluation import held_out
from train.run import Run
from train.sharding import Sharding
from train.trainer import TrainerConfig
from train.training import train
from train.trl_engine import TRLEngine, check_engine

REPLAY = "replay"  # its source's name, in the log


@dataclass(kw_only=True)
class SFTStage(StageConfig):
    """conf/sft.yaml"""

    data: InstructionData
    replay: Part | None = None  # text or instructions learnt before, beside the data, so that they are not forgotten
    replay_share: float | None = None  # of all rows, in (0, 1); null: every row of replay once
    model: ModelConfig = field(default_factory=ModelConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    deepspeed: Sharding = field(default_factory=Sharding, metadata=RUNTIME)
    engine: str = "ours"  # ours, or trl: TRL's trainer from the same configuration

    def __post_init__(self) -> None:
        super().__post_init__()
        check_engine(self.engine, self.deepspeed, self.adapter, self.trainer)
        if self.replay_share is not None and not (self.replay and 0 < self.replay_share < 1):
            raise ConfigError(f"replay_share={self.replay_share}: expected a share in (0, 1), with a replay")
        if self.data.streaming and (self.replay or self.engine == "trl" or self.trainer.max_steps is None):
            raise ConfigError("data.streaming=true: needs trainer.max_steps, and goes without replay and engine=trl")


def run(cfg: SFTStage) -> Artifact:
    """Train on the assistant's turns and their ends, and seal the policy."""
    with Run(cfg, stage="sft") as run:
        if run.sealed:
            return run.sealed
        policy, tokenizer = load_policy(run.input(cfg.model.path, "policy"), cfg.model, cfg.adapter)
        chat, length = ChatFormat(tokenizer), cfg.layout.max_length or max_positions(policy)
        data = stream_instructions(cfg.data) if cfg.data.streaming else instructions(cfg.data)
        if isinstance(data, Stream):
            rows = StreamedRows(lambda: (x.messages for x in data.one_pass()), chat, cfg.layout, length)
            batches = streamed(rows, cfg, run)
        else:
            run.say(str(data))
            rows = training_rows(data.train, cfg, tokenizer, chat, length)
            batches = in_memory(rows, cfg, run)
        measure = None
        if data.eval:
            trees = [conversation_tree(x.messages, chat) for x in data.eval]
            held = SupervisedRows(trees, cfg.layout, length, [x.source for x in data.eval])
            measure = partial(held_out, policy, held, supervised_by_source(held.names), batch_size=batches.share.rows)
        if cfg.engine == "trl":
            TRLEngine(run, tokenizer, rows.trees, batches, cfg.trainer).supervised(policy)
            found = measure() if measure else {}
        else:
            objective = supervised_by_source(rows.names)
            found = train(run, policy, batches, objective, cfg.trainer, measure=measure)
        chat.configure(policy)
        metrics = {"rows": rows.n_rows, "rows_dropped": rows.n_dropped, "rows_cut": rows.n_cut, **found}
        facts = {"data": [reading.counts() for reading in data.readings]}
        return run.seal("policy", model=policy, tokenizer=tokenizer, metrics=metrics, facts=facts)


def training_rows(
    data: Sequence[Instruction], cfg: SFTStage, tokenizer: PreTrainedTokenizerBase, chat: ChatFormat, length: int
) -> SupervisedRows:
    """The conversations and, behind them, what is replayed."""
    trees = [conversation_tree(x.messages, chat) for x in data]
    sources = [x.source or "data" for x in data]
    if cfg.replay:
        if holds_text(cfg.replay):
            again = document_trees(replay(cfg.replay), tokenizer)
        else:
            again = [conversation_tree(x.messages, chat) for x in one_source(cfg.replay).train]
        if cfg.replay_share is not None:
            n = round(len(trees) * cfg.replay_share / (1 - cfg.replay_share))
            again = draw(again, n, f"replay {cfg.seed}")
        trees, sources = trees + again, sources + [REPLAY] * len(again)
    return SupervisedRows(trees, cfg.layout, length, sources)


def in_memory(rows: SupervisedRows, cfg: SFTStage, run: Run) -> ShuffledBatches:
    """All rows, shuffled together or, where the mixture says so, one source after the other."""
    parts, spread = [], rows.sources.count(REPLAY)
    if cfg.data.mixing.schedule == "sequential":
        parts = [len(list(same)) for name, same in groupby(rows.sources) if name != REPLAY]
    return ShuffledBatches(
        rows,
        run.share(cfg.trainer),
        steps=cfg.trainer.steps(len(rows)),
        seed=cfg.seed,
        shuffle=cfg.trainer.shuffle,
        parts=parts,
        spread=spread,
    )


def streamed(rows: StreamedRows, cfg: SFTStage, run: Run) -> StreamedBatches:
    """Rows as they come from the file, shuffled within a buffer."""
    buffer, steps = cfg.data.stream_buffer if cfg.trainer.shuffle else 1, cfg.trainer.max_steps or 1
    share = run.share(cfg.trainer)
    return StreamedBatches(rows.one_pass, rows.collate, share, steps=steps, seed=cfg.seed, buffer=buffer)


if __name__ == "__main__":
    start("sft", SFTStage, run)
