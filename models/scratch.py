"""A small Llama and its tokenizer, made from nothing but text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from models.attention import BY_TREE
from models.errors import ConfigError


@dataclass
class Architecture:
    """The size of the model that is made."""

    vocabulary: int = 1680  # byte-level BPE tokens, special ones included
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    feed_forward: int = 352
    positions: int = 512
    rope_theta: float = 100.0  # base of the rotary frequencies; small, since the texts are short
    init_std: float = 0.06  # of the initial weights
    previous_token_head: float = 6.0  # strength of a head planted to look one token back, see there; 0: none

    def __post_init__(self) -> None:
        if self.hidden % self.heads or (self.hidden // self.heads) % 2:
            raise ConfigError(f"architecture.hidden={self.hidden}: expected an even multiple of heads={self.heads}")
        if self.vocabulary < 260:
            raise ConfigError(f"architecture.vocabulary={self.vocabulary}: expected at least 260, bytes and specials")


def make_tokenizer(text: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
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
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model = LlamaForCausalLM(llama_config(size, len(tokenizer), **ends)).float()
    if size.previous_token_head:
        plant_previous_token_head(model, size.previous_token_head)
    return model


def llama_config(size: Architecture, n_tokens: int, **ends: int | None) -> LlamaConfig:
    """The model's configuration. ends: ids of its special tokens."""
    return LlamaConfig(
        vocab_size=n_tokens,
        hidden_size=size.hidden,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=size.positions,
        rope_parameters={"rope_type": "default", "rope_theta": size.rope_theta},
        initializer_range=size.init_std,
        attention_bias=True,
        tie_word_embeddings=True,
        attn_implementation=BY_TREE,
        **ends,
    )


@torch.no_grad()
def plant_previous_token_head(model: LlamaForCausalLM, strength: float) -> None:
    """Let the first head of the first layer begin as one that attends to the token before.

    Copying is done by induction heads, which need such a head below them and otherwise wait for it to emerge (Olsson et
    al. 2022). Under rotary embeddings constant query and key vectors give a score that depends on the distance alone:
    q = a·(1, 0) and k = a·(cos w, sin w) in each plane make a²·Σ cos((i - j - 1)·w), largest where j = i - 1.
    """
    attention = model.model.layers[0].self_attn
    width = attention.head_dim
    frequencies = model.model.rotary_emb.inv_freq
    query = torch.cat([torch.ones_like(frequencies), torch.zeros_like(frequencies)])
    key = torch.cat([frequencies.cos(), frequencies.sin()])
    attention.q_proj.bias[:width] = strength * query
    attention.k_proj.bias[:width] = strength * key
