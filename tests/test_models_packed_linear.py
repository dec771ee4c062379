"""Claims about packed weights: the same products, and the layers as they were afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from models import packed_linear as packing
from models.adapters import AdapterConfig, adapt
from models.packed_linear import packed_linear
from models.voices import Voices

IDS = torch.arange(5, 35).view(3, 10)
STEPS = 32


def adapted(folder: str, method: str) -> PreTrainedModel:
    """With every trained weight away from where it changes nothing."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    model = adapt(model, AdapterConfig(method), new_tokens=(5, 7)).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=draw)
    return model


def packed(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    return model(input_ids=IDS).logits


@pytest.mark.parametrize("method", ["full", "lora", "rslora", "dora", "bitfit", "bottleneck", "ia3"])
def test_packed_layers_give_the_same_logits_with_whatever_adapter(method: str, any_folder: str) -> None:
    if method == "bitfit" and "llama" in any_folder:
        pytest.skip("a Llama has no biases")
    model = adapted(any_folder, method)
    expected = logits(model)
    with packed_linear(model, 3, STEPS):
        torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)
    assert not packed(model)
    torch.testing.assert_close(logits(model), expected, atol=0, rtol=0)


def test_a_low_rank_update_becomes_part_of_its_layers_matrix(llama_folder: str) -> None:
    model = adapted(llama_folder, "lora")
    with packed_linear(model, 3, STEPS):
        found = packed(model)
        assert any(name.endswith("q_proj") for name in found)
        assert not any("lora_" in name or "base_layer" in name for name in found)


def test_who_speaks_is_who_is_packed(llama_folder: str) -> None:
    model = adapted(llama_folder, "lora")
    voices, own = Voices(model), logits(model)
    with voices.speaking(None):
        expected = logits(model)
        assert (expected - own).abs().max() > 0.1
        with packed_linear(model, 3, STEPS):
            torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)


def test_nothing_is_packed_where_it_would_cost_more_than_it_gains(
    llama_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted(llama_folder, "full")
    with packed_linear(model, 3, STEPS - 1):
        assert not packed(model)
    with torch.autocast("cpu", torch.bfloat16), packed_linear(model, 3, STEPS):
        assert not packed(model)
    monkeypatch.setattr(packing, "MOST_BYTES", 1000)
    with packed_linear(model, 3, STEPS):
        assert not packed(model)
