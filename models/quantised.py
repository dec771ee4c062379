"""Weights in four bits (NF4; Dettmers et al. 2023), through bitsandbytes."""

from __future__ import annotations

import importlib.util

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from models.adapters import merge
from models.errors import ConfigError


def nf4() -> BitsAndBytesConfig:
    """NF4 with doubly quantised scales; products in float32 on a CPU, in bfloat16 on a GPU."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError("adapter=qlora needs bitsandbytes; pip install 'hhh-align[qlora]', or use adapter=lora")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32,
    )


def exact_on_cpu(model: PreTrainedModel) -> PreTrainedModel:
    """The same model without the bfloat16 kernel that bitsandbytes takes outside training on some CPUs: a rollout's
    log-probabilities must be those of the training step."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def merge_quantised(model: PreTrainedModel) -> PreTrainedModel:
    """A plain float32 model with the weights that a four-bit one and its low-rank updates compute with, in place."""
    from bitsandbytes.functional import dequantize_4bit  # noqa: PLC0415  an extra, slow to import
    from bitsandbytes.nn import Linear4bit  # noqa: PLC0415

    for name, module in list(model.named_modules()):
        below = module.get_base_layer() if isinstance(module, LoraLayer) else module
        if not isinstance(below, Linear4bit):
            continue
        weight = dequantize_4bit(below.weight.data, below.weight.quant_state).to(torch.float32)
        if module is not below:
            weight += module.get_delta_weight("default").to(torch.float32)
        plain = nn.Linear(below.in_features, below.out_features, bias=below.bias is not None, device="meta")
        plain.weight, plain.bias = nn.Parameter(weight), below.bias
        above, _, last = name.rpartition(".")
        setattr(model.get_submodule(above), last, plain)
    del model.config.quantization_config
    model.is_quantized = False
    return merge(model)
