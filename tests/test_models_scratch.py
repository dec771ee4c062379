"""A model made from nothing: the planted head, and that copying is learnt."""

from __future__ import annotations

import random

import pytest
import torch

from instruct.supervised import SupervisedRows, document_trees, supervised
from models.errors import ConfigError
from models.layout import LayoutConfig
from models.scratch import Architecture, make_model, make_tokenizer
from train.batches import Share, ShuffledBatches

WORDS = [a + b for a in "bdgklmst" for b in "ao"]


def drill(rng: random.Random) -> tuple[str, str]:
    said = " ".join(rng.choices(WORDS, k=rng.randint(3, 6)))
    return f"Say {said}. Again:", f" {said}."


def test_the_planted_head_looks_one_token_back() -> None:
    tokenizer = make_tokenizer(["a b c d e f g"], 270)
    model = make_model(Architecture(vocabulary=270, init_std=0.001), tokenizer)
    model.set_attn_implementation("eager")
    attention = model(torch.arange(10, 40)[None], output_attentions=True).attentions[0][0]
    assert attention[0].diagonal(-1).min() > 0.95  # the planted head
    assert attention[1].diagonal(-1)[5:].max() < 0.2  # any other


def test_the_tokenizer_reads_back_what_it_was_given() -> None:
    tokenizer = make_tokenizer(["The capital of Peru is Lima."] * 3, 300)
    text = "Überraschung, Lima! 🎉"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id} == {0, 1, 2}


@pytest.mark.parametrize(("option", "value"), [("hidden", 130), ("vocabulary", 100)])
def test_sizes_that_cannot_be_are_refused(option: str, value: int) -> None:
    with pytest.raises(ConfigError, match=option):
        Architecture(**{option: value})


def copied(model: torch.nn.Module, tokenizer: object, rng: random.Random, n: int = 50) -> float:
    """Share of fresh drills whose words the model says again, every token right."""
    right = 0
    for text, again in (drill(rng) for _ in range(n)):
        prompt = [tokenizer.bos_token_id, *tokenizer(text).input_ids]
        answer = tokenizer(again).input_ids
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        right += logits.argmax(-1).tolist() == answer
    return right / n


def test_copying_is_learnt_from_drills() -> None:
    """The gate of the embedded default: without copying nothing that follows can work."""
    rng, steps = random.Random(0), COPY_STEPS
    text = [t + a + " Again:" + a for t, a in (drill(rng) for _ in range(24 * steps))]
    tokenizer = make_tokenizer(text, 259 + 4 * len(WORDS))
    torch.manual_seed(0)
    size = Architecture(vocabulary=len(tokenizer), hidden=128, layers=2, heads=4, feed_forward=256)
    model = make_model(size, tokenizer)
    rows = SupervisedRows(document_trees(text, tokenizer), LayoutConfig(), 256)
    optimizer = torch.optim.AdamW(model.parameters(), lr=COPY_RATE, betas=(0.9, 0.98), fused=True)
    for step, batch in enumerate(ShuffledBatches(rows, Share(24), steps=steps, seed=0)):
        optimizer.param_groups[0]["lr"] = COPY_RATE * min(1.0, (step + 1) / 20) * (1 - step / steps)
        supervised(model, batch, batch["units"])[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert copied(model, tokenizer, rng) > 0.8


COPY_STEPS, COPY_RATE = 350, 3e-3
