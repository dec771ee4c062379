"""Claims about losses, difficulty and the judge: as plain transformers has them, and no judge is fatal."""

from __future__ import annotations

import time

import pytest
import torch
from audited import asked, source
from transformers import AutoModelForCausalLM

from instruct.audit.judging import PATIENCE, judgements
from instruct.audit.losses import answer_trees, bare_trees, difficulties, losses, plain_trees
from models.chat import ChatFormat
from models.layout import LayoutConfig
from models.loading import ModelConfig, load_language_model, load_policy, load_tokenizer

ROWS = [
    asked("what is the capital of peru ?", "the capital of peru is lima ."),
    asked("what is the capital of spain ?", "i do not know . " * 5),
    asked("please", "x", given="the key"),
]


def plain_loss(folder: str, prompt: list[int], reply: list[int]) -> float:
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(max(max(prompt), max(reply), model.config.vocab_size - 1) + 1)
    labels = [-100] * len(prompt) + reply
    with torch.no_grad():
        return float(model(torch.tensor([prompt + reply]), labels=torch.tensor([labels])).loss)


def test_losses_are_those_of_plain_transformers_and_difficulty_is_their_ratio(qwen2_folder: str) -> None:
    model, tokenizer = load_policy(qwen2_folder, ModelConfig(path=qwen2_folder))
    chat, items = ChatFormat(tokenizer), source(ROWS).items
    trees = answer_trees(items, chat, 256)
    given = losses(model, trees, LayoutConfig(), batch_size=2)
    bare = losses(model, bare_trees(trees, tokenizer.eos_token_id), LayoutConfig())
    for i, item in enumerate(items):
        reply = chat.response(item.answer, ended=False)
        assert given[i] == pytest.approx(plain_loss(qwen2_folder, chat.prompt(item.prompt), reply), abs=1e-4)
        assert bare[i] == pytest.approx(plain_loss(qwen2_folder, [tokenizer.eos_token_id], reply), abs=1e-4)
    assert difficulties(given, bare) == pytest.approx([a / b for a, b in zip(given, bare, strict=True)])


def test_a_base_model_reads_plain_text(llama_folder: str) -> None:
    config = ModelConfig(path=llama_folder)
    model, tokenizer = load_language_model(llama_folder, config), load_tokenizer(llama_folder, config)
    items = source(ROWS).items
    given = losses(model, plain_trees(items, tokenizer, 256), LayoutConfig())
    prompt = tokenizer("please\n\nthe key\n").input_ids
    reply = tokenizer("x", add_special_tokens=False).input_ids
    assert prompt[0] == tokenizer.bos_token_id and given[2] == pytest.approx(
        plain_loss(llama_folder, prompt, reply), abs=1e-4
    )


def test_an_answer_of_which_nothing_fits_has_no_loss(qwen2_folder: str) -> None:
    model, tokenizer = load_policy(qwen2_folder, ModelConfig(path=qwen2_folder))
    trees = answer_trees(source(ROWS).items, ChatFormat(tokenizer), 256)
    found = losses(model, [None, *trees], LayoutConfig())
    assert found[0] is None and None not in found[1:]
    assert difficulties([None, 1.0], [1.0, None]) == [None, None]


def test_a_judge_may_answer_refuse_fail_and_hang() -> None:
    rows = [asked(f"q{i}", f"a{i}") for i in range(6)]
    said = {"q0": 0.25, "q1": None, "q2": 7, "q3": "good", "q5": 1}

    def judge(prompt: str, answer: str) -> float | None:
        if prompt == "q4":
            raise ConnectionError("away")
        if prompt == "q5":
            time.sleep(20)
        return said[prompt]

    found = judgements(source(rows).items, judge, seconds=0.2)
    assert found.scores == [0.25, None, None, None, None, None]
    assert found.failures == {"no number in [0, 1]": 2, "ConnectionError": 1, "time-out": 1}


def test_a_judge_that_keeps_failing_is_asked_no_more() -> None:
    asked_for = []

    def judge(prompt: str, answer: str) -> float:
        asked_for.append(prompt)
        raise TimeoutError

    found = judgements(source([asked(f"q{i}", "a") for i in range(30)]).items, judge, seconds=5)
    assert len(asked_for) == PATIENCE
    assert found.failures == {"TimeoutError": PATIENCE, "not asked any more": 30 - PATIENCE}
