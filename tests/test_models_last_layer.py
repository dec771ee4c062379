"""Claims about the last feed-forward network: it works where it is read alone, and nothing that is read changes."""

from __future__ import annotations

import pytest
import torch
from test_models_layout import gradients
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from models import last_layer
from models.layout import Tree, collate
from models.logprobs import token_logprobs
from models.scorer import raw_scores

TREES = [Tree.of(list(range(5, 25)), [[7, 8, 9], [10, 11]]), Tree.of(list(range(40, 50)), [[3, 4], [6]])]


def seen_by(network: nn.Module) -> list[int]:
    """Filled with the positions that reach a network in each forward pass."""
    seen: list[int] = []
    network.register_forward_hook(lambda _, given, __: seen.append(given[0].flatten(0, -2).shape[0]))
    return seen


def last_network(model: PreTrainedModel) -> nn.Module:
    base = model.base_model
    return (base.layers if hasattr(base, "layers") else base.h)[-1].mlp


@pytest.mark.parametrize("narrow", [0, 256])
def test_a_scorer_needs_one_position_of_each_response(any_folder: str, narrow: int, monkeypatch) -> None:
    monkeypatch.setattr("models.logprobs.NARROW", narrow)
    model = AutoModelForSequenceClassification.from_pretrained(any_folder, num_labels=3, pad_token_id=0).eval()
    batch = collate(TREES, bin_tokens=32)
    got = raw_scores(model, batch)
    seen = seen_by(last_network(model))
    assert torch.equal(raw_scores(model, batch), got) and seen == [4]
    monkeypatch.setattr(last_layer, "WORTH", 0.0)
    want = raw_scores(model, batch)
    assert seen == [4, batch["input_ids"].numel()]
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)
    ours, theirs = (gradients(model, x.square().sum()) for x in (got, want))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-6, rtol=1e-5)


def test_a_position_that_predicts_the_first_token_of_several_responses_counts_once(llama_folder: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    seen = seen_by(last_network(model))
    found = token_logprobs(model, collate(TREES, bin_tokens=32)).logprobs
    assert len(found) == 8 and seen == [6]


def test_where_nearly_all_is_read_or_layers_are_computed_twice_nothing_is_left_out(llama_folder: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama_folder).train()
    seen = seen_by(last_network(model))
    token_logprobs(model, collate([Tree.of([5], [list(range(6, 30))])], bin_tokens=8))
    model.gradient_checkpointing_enable()
    batch = collate(TREES, bin_tokens=32)
    token_logprobs(model, batch)
    assert seen == [25, batch["input_ids"].numel()]


def test_no_hook_stays_behind_even_where_the_forward_fails(llama_folder: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    network = last_network(model)

    def fail(_: nn.Module, __: tuple[Tensor, ...]) -> None:
        raise RuntimeError("broken")

    failing = model.model.norm.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="broken"):
        token_logprobs(model, collate(TREES, bin_tokens=32))
    failing.remove()
    assert not network._forward_hooks and not network._forward_pre_hooks
