"""The embedded default's base model: a tiny Llama with a tokenizer of its own, pretrained on plain text.

python -m stages.base data=world_text
python -m stages.base data=text data.path=corpus.jsonl
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial

from instruct.readers import InstructionData
from instruct.sources import documents, held_out_documents
from instruct.supervised import SupervisedRows, document_trees, supervised
from models.layout import LayoutConfig
from models.options import RUNTIME
from models.scratch import Architecture, make_model, make_tokenizer
from train.artifact import Artifact
from train.batches import ShuffledBatches
from train.config import StageConfig
from train.entry import start
from train.evaluation import held_out
from train.run import Run
from train.sharding import Sharding
from train.trainer import TrainerConfig
from train.training import train


@dataclass(kw_only=True)
class BaseStage(StageConfig):
    """conf/base.yaml"""

    data: InstructionData
    architecture: Architecture = field(default_factory=Architecture)
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    deepspeed: Sharding = field(default_factory=Sharding, metadata=RUNTIME)


def run(cfg: BaseStage) -> Artifact:
    """Make a tokenizer and a model, train on every token of the text, and seal the policy."""
    with Run(cfg, stage="base") as run:
        if run.sealed:
            return run.sealed
        text, held = documents(cfg.data), held_out_documents(cfg.data)
        tokenizer = make_tokenizer(text, cfg.architecture.vocabulary)
        model = make_model(cfg.architecture, tokenizer)
        n_parameters = model.num_parameters()
        run.say(f"{len(text)} documents, {len(tokenizer)} tokens of vocabulary, {n_parameters:,} parameters")
        rows = SupervisedRows(document_trees(text, tokenizer), cfg.layout, cfg.architecture.positions)
        batches = ShuffledBatches(
            rows, run.share(cfg.trainer), steps=cfg.trainer.steps(len(rows)), seed=cfg.seed, shuffle=cfg.trainer.shuffle
        )
        measure = None
        if held:
            held_rows = SupervisedRows(document_trees(held, tokenizer), cfg.layout, cfg.architecture.positions)
            measure = partial(held_out, model, held_rows, supervised, batch_size=batches.share.rows)
        found = train(run, model, batches, supervised, cfg.trainer, measure=measure)
        metrics: dict[str, float] = {"parameters": n_parameters, "documents": len(rows), **found}
        if held:
            metrics["perplexity"] = math.exp(metrics["eval_nll"])
        return run.seal("policy", model=model, tokenizer=tokenizer, metrics=metrics)


if __name__ == "__main__":
    start("base", BaseStage, run)
