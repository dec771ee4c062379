"""The embedded default's base model: a tiny Llama with a tokenizer of its own, pretrained on plain text.

python -m stages.base data=world_text
python -m stages.base data=text data.path=corpus.jsonl
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from instruct.readers import InstructionData
from instruct.sources import documents, held_out_documents
from instruct.supervised import SupervisedRows, document_tree, supervised
from models.errors import ConfigError
from models.layout import LayoutConfig
from train.artifact import Artifact
from train.batches import ShuffledBatches
from train.entry import start
from train.evaluation import held_out
from train.run import Run, StageConfig
from train.sharding import Sharding
from train.trainer import TrainerConfig


@dataclass
class Architecture:
    """The size of the model that is made."""

    vocabulary: int = 1024  # byte-level BPE tokens, special ones included
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    feed_forward: int = 384
    positions: int = 512

    def __post_init__(self) -> None:
        if self.hidden % self.heads or (self.hidden // self.heads) % 2:
            raise ConfigError(f"architecture.hidden={self.hidden}: expected an even multiple of heads={self.heads}")
        if self.vocabulary < 260:
            raise ConfigError(
                f"architecture.vocabulary={self.vocabulary}: expected at least 260, the bytes and specials"
            )


@dataclass(kw_only=True)
class BaseStage(StageConfig):
    """conf/base.yaml"""

    data: InstructionData
    architecture: Architecture = field(default_factory=Architecture)
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    deepspeed: Sharding = field(default_factory=Sharding)


def run(cfg: BaseStage) -> Artifact:
    """Make a tokenizer and a model, train on every token of the text, and seal the policy."""
    with Run(cfg, stage="base") as run:
        if run.sealed:
            return run.sealed
        text, held = documents(cfg.data), held_out_documents(cfg.data)
        tokenizer = make_tokenizer(text, cfg.architecture.vocabulary)
        model = make_model(cfg.architecture, tokenizer)
        run.say(f"{len(text)} documents, {len(tokenizer)} tokens of vocabulary, {model.num_parameters():,} parameters")
        rows = SupervisedRows([document_tree(t, tokenizer) for t in text], cfg.layout, cfg.architecture.positions)
        batches = ShuffledBatches(
            rows, run.share(cfg.trainer), steps=cfg.trainer.steps(len(rows)), seed=cfg.seed, shuffle=cfg.trainer.shuffle
        )
        run.train(model, batches, supervised, cfg.trainer, sharding=cfg.deepspeed)
        metrics: dict[str, float] = {"parameters": model.num_parameters(), "documents": len(rows)}
        if held:
            trees = [document_tree(t, tokenizer) for t in held]
            metrics |= held_out(model, SupervisedRows(trees, cfg.layout, cfg.architecture.positions), supervised)
            metrics["perplexity"] = math.exp(metrics["eval_nll"])
        return run.seal("policy", model=model, tokenizer=tokenizer, metrics=metrics)


def make_tokenizer(text: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of the text, with beginning, end and padding tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|pad|>", "<|begin|>", "<|text_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<|pad|>", bos_token="<|begin|>", eos_token="<|text_end|>"
    )


def make_model(size: Architecture, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with tied embeddings and fresh weights."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=size.positions,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="sdpa",
        dtype=torch.float32,
    )
    return LlamaForCausalLM(config)


if __name__ == "__main__":
    start("base", BaseStage, run)
