"""A model and rows for the benchmarks: python -m bench.material <folder> <alpaca file> <rows> <size>

Writes model/, rows.json (the rows), columns.json (the same as token ids and labels), facts.json (their counts) and
peak.json (the processor's matrix peak by precision).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from bench.peak import DTYPES, matrix_peak
from instruct.readers import InstructionData, read_instructions
from instruct.supervised import conversation_tree
from models.chat import ChatFormat, add_chat_template
from models.scratch import make_tokenizer
from train.trl_rows import conversation_columns

SIZES = {  # vocabulary, hidden, feed-forward, layers, heads
    "10m": (8192, 256, 1024, 6, 8),
    "100m": (8192, 768, 2048, 12, 12),
    "10m-32k": (32768, 256, 1024, 6, 8),
    "tiny": (384, 64, 128, 2, 4),
}
ROLES = 4  # tokens of the chat template


def main(folder: Path, source: str, n_rows: int, size: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    raw = json.loads(Path(source).read_text())
    model, tokenizer = make_model(folder, ("\n".join(row.values()) for row in raw), SIZES[size])
    (folder / "rows.json").write_text(json.dumps(raw[:n_rows]))
    data = read_instructions(InstructionData(format="alpaca", path=str(folder / "rows.json"), eval_fraction=0.0))
    trees = [conversation_tree(row.messages, ChatFormat(tokenizer)) for row in data.train]
    (folder / "columns.json").write_text(json.dumps(conversation_columns(trees)))
    lengths, targets = [tree.n_tokens for tree in trees], sum(tree.n_targets for tree in trees)
    outer = model.get_output_embeddings().weight.numel()
    inner = model.num_parameters() - outer - model.get_input_embeddings().weight.numel()
    attention = 6 * model.config.num_hidden_layers * model.config.hidden_size * sum(n * n for n in lengths)
    facts = {
        "parameters": model.num_parameters(),
        "samples": len(trees),
        "tokens": sum(lengths),
        "targets": targets,
        "flops": 6 * inner * sum(lengths) + 6 * outer * targets + attention,
    }
    (folder / "facts.json").write_text(json.dumps(facts))
    write_peak(folder, quick=size == "tiny")


def make_model(
    folder: Path, texts: Iterable[str], sizes: tuple[int, ...]
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """A Llama of random weights and a tokenizer learnt from the texts, with a chat template, saved in model/."""
    tokenizer = make_tokenizer(texts, sizes[0] - ROLES)
    add_chat_template(tokenizer)
    model = llama(
        (len(tokenizer), *sizes[1:]),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return model, tokenizer


def llama(sizes: tuple[int, ...], **more: Any) -> LlamaForCausalLM:
    """A Llama of random weights, the same at every call."""
    vocabulary, hidden, feed_forward, layers, heads = sizes
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=1024,
        **more,
    )
    return LlamaForCausalLM(config)


def write_peak(folder: Path, quick: bool) -> None:
    """The processor's matrix peak by precision."""
    peak = {name: matrix_peak(dtype, seconds=0.1 if quick else 2.0) for name, dtype in DTYPES.items()}
    (folder / "peak.json").write_text(json.dumps(peak))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])
