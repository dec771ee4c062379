"""Claims about attention tree by tree: what a packed batch with a mask gives, without padding and without the mask."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_models_layout import fixed_trees, gradients, plain_logprobs, some_trees
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from models.adapters import AdapterConfig
from models.attention import BY_TREE, FlatTrees
from models.layout import Tree, attention_mask, collate
from models.loading import ModelConfig, load_policy
from models.logprobs import hidden_states, token_logprobs


@pytest.fixture(autouse=True)
def every_bin_is_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.logprobs.NARROW", 0)


def loaded(folder: str, attention: str = BY_TREE) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention).eval()


def widths(model: PreTrainedModel) -> list[tuple[int, ...]]:
    """Filled with the shape (rows, positions) of every forward pass."""
    seen: list[tuple[int, ...]] = []
    model.get_input_embeddings().register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape)))
    return seen


def weighted(logprobs: Tensor) -> Tensor:
    return (logprobs * torch.linspace(-1, 1, len(logprobs))).mean()


def test_values_and_gradients_are_those_of_plain_rows(any_folder: str) -> None:
    model, trees = loaded(any_folder), fixed_trees()
    got = token_logprobs(model, collate(trees, bin_tokens=32)).logprobs
    want = torch.cat([values for tree in trees for values in plain_logprobs(model, tree)])
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    ours, theirs = gradients(model, weighted(got)), gradients(model, weighted(want))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_gradient_checkpointing_changes_no_gradient(llama_folder: str) -> None:
    model, batch = loaded(llama_folder).train(), collate(fixed_trees(), bin_tokens=32)
    want = gradients(model, weighted(token_logprobs(model, batch).logprobs))
    model.gradient_checkpointing_enable()
    got = gradients(model, weighted(token_logprobs(model, batch).logprobs))
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_no_layer_sees_padding(llama_folder: str) -> None:
    model, trees = loaded(llama_folder), fixed_trees()
    seen = widths(model)
    batch = collate(trees, bin_tokens=32)
    hidden_states(model, batch, batch["source"])
    assert seen == [(1, sum(tree.n_tokens for tree in trees))]


@given(some_trees(), st.integers(8, 40))
@settings(max_examples=50)
def test_what_runs_see_is_what_the_mask_of_the_bins_says(trees: list[Tree], bin_tokens: int) -> None:
    batch = collate(trees, bin_tokens=bin_tokens)
    flat = FlatTrees(batch)
    whole = torch.block_diag(*attention_mask(batch)[:, 0].int())[flat.places][:, flat.places]
    places = torch.arange(sum(flat.sizes)).split(flat.sizes)
    seen = torch.zeros_like(whole)
    for run, own in zip(flat.runs, places, strict=True):
        keys = own if run.prompt is None else torch.cat([places[run.prompt], own])
        mask = torch.ones(run.size, run.size).tril() if run.mask is None else run.mask[0, 0]
        seen[own[:, None], keys] = mask.int()
    assert torch.equal(seen, whole)
    assert flat.places[flat.places_of(batch["ends"])].tolist() == batch["ends"].tolist()


def test_a_lone_response_attends_with_its_prompt_and_several_each_by_themselves() -> None:
    batch = collate([Tree.of([5, 6], [[7, 8]]), Tree.of([5], [[6], [7, 8]])], bin_tokens=16)
    runs = FlatTrees(batch).runs
    assert [(run.size, run.prompt) for run in runs] == [(4, None), (1, None), (1, 1), (2, 1)]
    assert [run.mask is None for run in runs] == [True, True, False, False]
    assert runs[3].mask[0, 0].tolist() == [[True, True, False], [True, True, True]]


def test_without_trees_the_model_is_that_of_sdpa(any_folder: str) -> None:
    ids, mask = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 9]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    ours, theirs = (loaded(any_folder, name)(input_ids=ids, attention_mask=mask).logits for name in (BY_TREE, "sdpa"))
    assert torch.equal(ours[mask.bool()], theirs[mask.bool()])


def test_a_model_that_keeps_the_trees_from_its_layers_is_given_a_mask(llama_folder: str) -> None:
    model, batch = loaded(llama_folder), collate(fixed_trees(), bin_tokens=32)
    want = token_logprobs(loaded(llama_folder, "sdpa"), batch).logprobs

    def forget(_: nn.Module, args: tuple, given: dict) -> tuple[tuple, dict]:
        return args, {name: value for name, value in given.items() if name != "trees"}

    model.model.layers[1].register_forward_pre_hook(forget, with_kwargs=True)
    seen = widths(model)
    for _ in range(2):
        torch.testing.assert_close(token_logprobs(model, batch).logprobs, want, atol=1e-5, rtol=0)
    assert seen[1:] == [tuple(batch["input_ids"].shape)] * 2, "the second batch goes by the mask at once"


def test_virtual_tokens_are_seen_by_every_tree(llama_folder: str) -> None:
    model, _ = load_policy(llama_folder, ModelConfig(path=llama_folder), AdapterConfig(method="prompt", tokens=4))
    trees = fixed_trees()
    want = torch.cat([values for tree in trees for values in plain_logprobs(model, tree)])
    got = token_logprobs(model, collate(trees, bin_tokens=32)).logprobs
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16_is_near_float32(llama_folder: str, autocast: bool) -> None:
    batch, weights = collate(fixed_trees(), bin_tokens=32), torch.float32 if autocast else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(llama_folder, attn_implementation=BY_TREE, dtype=weights)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        got = token_logprobs(model, batch).logprobs
    want = token_logprobs(loaded(llama_folder), batch).logprobs
    assert not torch.equal(got, want)
    torch.testing.assert_close(got, want, atol=0.1, rtol=0.05)


def test_narrow_bins_go_by_the_mask_with_the_same_result(llama_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = loaded(llama_folder), collate(fixed_trees(), bin_tokens=32)
    by_tree = token_logprobs(model, batch).logprobs
    monkeypatch.setattr("models.logprobs.NARROW", 256)
    seen = widths(model)
    torch.testing.assert_close(token_logprobs(model, batch).logprobs, by_tree, atol=1e-5, rtol=0)
    assert seen == [tuple(batch["input_ids"].shape)]
