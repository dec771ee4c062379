"""Tiny real models and tokenizers, made once a session: two layers, 64 wide, saved as any transformers folder is.

Whoever changes one of them in a test loads a copy of its own from the folder, or deep-copies the tokenizer.
"""

from __future__ import annotations

import os

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")

from pathlib import Path

import pytest
import torch
from command import run
from tiny_data import INSTRUCTIONS, PAIRS, PROMPTS, RANKINGS, STEPS, written
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

SENTENCES = (
    "the capital of peru is lima .",
    "what is the capital of spain ? the capital of spain is madrid .",
    "i am sorry , i cannot help with that .",
    "i do not know . please ask me something else .",
    "how do i clean the library ? first get the key , then go to the library .",
    "Überraschung: 3 + 4 = 7, 12 - 5 = 7.",
)

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of a base model: starts with <s>, knows </s>, has no padding and no chat template."""
    made = byte_level(["<s>", "</s>"], bos="<s>")
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def llama_folder(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Llama with grouped queries and untied embeddings, its tokenizer without padding and without a template."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.1,  # wide enough that a wrong mask or position shows in every digit
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return saved(config, tokenizer, tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def tiny(llama_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data files, and in outputs/tiny an SFT and a reward artefact."""
    folder = tmp_path_factory.mktemp("faults")
    for name, rows in (("alpaca", INSTRUCTIONS), ("pairs", PAIRS), ("kwise", RANKINGS), ("prompts", PROMPTS)):
        written(folder / f"{name}.jsonl", rows)
    place = (f"outputs={folder / 'outputs'}", "name=tiny")
    run("sft", *place, "data=alpaca", f"data.path={folder / 'alpaca.jsonl'}", f"model.path={llama_folder}", *STEPS)
    tuned = f"model.path={folder / 'outputs/tiny/sft'}"
    run("reward", *place, "data=kwise", f"data.path={folder / 'kwise.jsonl'}", tuned, *STEPS)
    return folder


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A GPT-2 with learnt positions, dropout, tied embeddings, and padding that is the end of text."""
    end = "<|endoftext|>"
    made = PreTrainedTokenizerFast(
        tokenizer_object=byte_level([end]), bos_token=end, eos_token=end, pad_token=end, unk_token=end
    )
    config = GPT2Config(
        vocab_size=len(made),
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=256,
        initializer_range=0.1,
        bos_token_id=made.eos_token_id,
        eos_token_id=made.eos_token_id,
    )
    return saved(config, made, tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def qwen2_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Qwen2 with biases, tied embeddings, and a ChatML template of its own."""
    made = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    made.chat_template = CHATML
    config = Qwen2Config(
        vocab_size=len(made) + 13,  # embeddings are often padded to a round number of rows
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.1,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=made.eos_token_id,
        pad_token_id=made.pad_token_id,
    )
    return saved(config, made, tmp_path_factory.mktemp("qwen2"))


@pytest.fixture(scope="session", params=["llama", "gpt2", "qwen2"])
def any_folder(request: pytest.FixtureRequest) -> str:
    """Each of the three folders in turn."""
    return request.getfixturevalue(f"{request.param}_folder")


def byte_level(specials: list[str], bos: str | None = None) -> Tokenizer:
    """A byte-level BPE of a few merges, trained on SENTENCES; `bos` is put before every text."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(SENTENCES, trainer)
    if bos is not None:
        made.post_processor = processors.TemplateProcessing(f"{bos} $A", special_tokens=[(bos, made.token_to_id(bos))])
    return made


def saved(config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast, folder: Path) -> str:
    """A model of random weights (the same in every session) beside its tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
