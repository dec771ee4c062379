"""Every fine-tuning method on small models of three architectures: what it trains, and that generation is right."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModelForCausalLM, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from torch import Tensor
from transformers import PreTrainedModel

from models.adapters import IN_LAYERS, MERGED, READS, AdapterConfig, adapt, merge
from models.errors import ConfigError
from models.generation import sample
from models.layout import Tree, collate, separate
from models.loading import ModelConfig, load_language_model
from models.logprobs import token_logprobs
from models.virtual_tokens import virtual_tokens

ADAPTERS = [m for m in READS if m not in ("full", "freeze", "qlora")]
VIRTUAL = ("prompt", "p_tuning", "prefix", "p_tuning_v2")
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17]]
TREES = [Tree.of([4, 5, 6], [[7, 8, 9], [10], [11, 12]]), Tree.of([13, 14], [[15, 16], [17, 18, 19, 20]])]


def loaded(folder: str) -> PreTrainedModel:
    return load_language_model(folder, ModelConfig(path=folder)).eval()


def adapted(folder: str, method: str, new_tokens: tuple[int, ...] = ()) -> PreTrainedModel:
    """A model whose trained weights are as if training had moved them far."""
    torch.manual_seed(0)
    if method == "bitfit" and "qwen" not in folder and "gpt2" not in folder:
        pytest.skip("this model has no biases")
    model = adapt(loaded(folder), AdapterConfig(method), new_tokens)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter) * 0.1
    return model


def next_token(model: PreTrainedModel, ids: list[int]) -> int:
    return int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())


def by_full_forwards(model: PreTrainedModel, prompt: list[int], n: int) -> list[int]:
    """Greedy decoding without a cache, a batch or padding."""
    ids = list(prompt)
    for _ in range(n):
        ids.append(next_token(model, ids))
    return ids[len(prompt) :]


def gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    model.zero_grad()
    token_logprobs(model, collate(TREES, bin_tokens=16)).logprobs.sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("method", ADAPTERS)
def test_greedy_text_is_that_of_full_forwards(any_folder: str, method: str) -> None:
    model = adapted(any_folder, method)
    found = sample(model, PROMPTS, max_new_tokens=12, ends=set(), temperature=0.0)
    assert [s.ids for s in found] == [by_full_forwards(model, prompt, 12) for prompt in PROMPTS]


@pytest.mark.parametrize("method", ADAPTERS)
def test_packed_trees_equal_separate_rows(any_folder: str, method: str) -> None:
    model = adapted(any_folder, method)
    packed = token_logprobs(model, collate(TREES, bin_tokens=64)).logprobs
    alone = [token_logprobs(model, collate([row], bin_tokens=1)).logprobs for tree in TREES for row in separate(tree)]
    assert torch.allclose(packed, torch.cat(alone), atol=1e-5)


@pytest.mark.parametrize("method", VIRTUAL)
def test_virtual_tokens_compute_what_peft_computes_without_a_cache(any_folder: str, method: str) -> None:
    """Peft's forward is right; its generation is not under this transformers, which is why ours has its own way in."""
    model, plain = adapted(any_folder, method), loaded(any_folder)
    config = {"prompt": PromptTuningConfig, "p_tuning": PromptEncoderConfig}.get(method, PrefixTuningConfig)
    options = {"prefix_projection": method == "prefix"} if config is PrefixTuningConfig else {}
    if method in ("p_tuning", "prefix"):
        options["encoder_hidden_size"] = AdapterConfig().encoder
    theirs = PeftModelForCausalLM(plain, config(task_type="CAUSAL_LM", num_virtual_tokens=16, **options)).eval()
    theirs.prompt_encoder["default"].load_state_dict(virtual_tokens(model).encoder.state_dict())
    ids = torch.tensor([PROMPTS[0], PROMPTS[0][::-1]])
    expected = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -len(PROMPTS[0]) :]
    assert torch.allclose(model(input_ids=ids).logits, expected, atol=1e-4)


@pytest.mark.parametrize("method", MERGED)
def test_merged_weights_compute_the_same(any_folder: str, method: str) -> None:
    model, ids = adapted(any_folder, method, new_tokens=(5, 16)), torch.tensor(PROMPTS[:1])
    names = set(loaded(any_folder).state_dict())
    before = model(input_ids=ids).logits
    merged = merge(model)
    assert torch.allclose(merged(input_ids=ids).logits, before, atol=1e-4)
    assert set(merged.state_dict()) == names and all(p.requires_grad for p in merged.parameters())


@pytest.mark.parametrize("method", ADAPTERS)
def test_gradients_are_the_same_under_checkpointing(any_folder: str, method: str) -> None:
    if method in IN_LAYERS:
        with pytest.raises(ConfigError, match="adapter=prompt"):
            AdapterConfig(method).check(gradient_checkpointing=True, weights_sharded=False)
        return
    model = adapted(any_folder, method).train()
    expected = gradients(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    found = gradients(model)
    assert expected.keys() == found.keys() and expected
    assert all(torch.allclose(expected[name], found[name], atol=1e-5) for name in expected)


@pytest.mark.parametrize("method", ADAPTERS)
def test_only_what_the_method_trains_has_a_gradient(any_folder: str, method: str) -> None:
    model = adapted(any_folder, method)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert set(gradients(model)) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained < 0.5 * sum(p.numel() for p in loaded(any_folder).parameters())


@pytest.mark.parametrize("method", [m for m in ADAPTERS if m not in VIRTUAL])
def test_a_method_begins_where_the_model_was(any_folder: str, method: str) -> None:
    if method == "bitfit":
        return
    ids = torch.tensor(PROMPTS[:1])
    model = adapt(loaded(any_folder), AdapterConfig(method), new_tokens=(5,))
    assert torch.allclose(model(input_ids=ids).logits, loaded(any_folder)(input_ids=ids).logits, atol=1e-6)


@pytest.mark.parametrize("method", ADAPTERS)
def test_embeddings_of_new_tokens_are_trained_and_no_others(any_folder: str, method: str) -> None:
    before = loaded(any_folder).get_input_embeddings().weight
    model = adapted(any_folder, method, new_tokens=(5, 7))
    now = model.get_input_embeddings()(torch.arange(len(before)))
    changed = {i for i in range(len(before)) if not torch.equal(before[i], now[i])}
    assert changed == {5, 7}
    alone = {name for name, p in adapted(any_folder, method).named_parameters() if p.requires_grad}
    assert alone < {name for name, p in model.named_parameters() if p.requires_grad}


def test_options_that_a_method_does_not_read_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"adapter\.rank=4: not read by adapter\.method=prefix"):
        AdapterConfig("prefix", rank=4)
