"""Virtual tokens: learnt vectors that every sequence sees before its first token. The model's own weights stay frozen.

Prompt tuning (Lester et al. 2021) and P-tuning (Liu et al. 2021) learn them at the input, prefix tuning (Li & Liang
2021) and P-tuning v2 (Liu et al. 2022) as keys and values of every layer. Peft's encoders hold them; they enter the
model through hooks on its backbone, so that training on packed trees, generation with a cache and plain forwards see
the same.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from peft.tuners import PrefixEncoder, PromptEmbedding, PromptEncoder
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

NAME = "virtual_tokens"


class VirtualTokens(nn.Module):
    """`n` virtual tokens of an encoder that maps their indices (1, n) to vectors (1, n, width)."""

    def __init__(self, encoder: nn.Module, config: PeftConfig) -> None:
        super().__init__()
        self.encoder, self.config, self.n = encoder, config, config.num_virtual_tokens
        self.in_layers = isinstance(config, PrefixTuningConfig)
        self._prepended = False

    def vectors(self) -> Tensor:
        """(n, width): width is the hidden size at the input; keys and values of all layers, 2·L·heads·d, in layers."""
        return self.encoder(torch.arange(self.n, device=next(self.encoder.parameters()).device)[None])[0]

    def keep(self, vectors: Tensor) -> None:
        """Hold these vectors (n, width) as they are, without the network that made them."""
        self.encoder = nn.Embedding.from_pretrained(vectors.to(next(self.encoder.parameters()).device), freeze=False)

    def attach(self, model: PreTrainedModel) -> None:
        """Let every forward of the model's backbone see the virtual tokens."""
        backbone = model.base_model
        backbone.add_module(NAME, self)
        backbone.register_forward_pre_hook(self._before, with_kwargs=True)
        backbone.register_forward_hook(self._after)

    def _before(self, backbone: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple, dict]:
        given = dict(zip(("input_ids",), args, strict=True)) | given if args else given
        cache = given.get("cache")
        first = cache is None or cache.get_seq_length() == 0
        mask, positions = given.get("attention_mask"), given.get("position_ids")
        changed = dict(given)
        if positions is not None:
            changed["position_ids"] = positions + self.n
        self._prepended = first and not self.in_layers
        if first and self.in_layers:
            changed["cache"] = self._filled(backbone, cache, _rows(given))
        elif first:
            changed |= self._with_inputs(backbone, given, changed["position_ids"] if positions is not None else None)
        if mask is not None:
            changed["attention_mask"] = self._widened(mask, square=self._prepended)
        return (), changed

    def _after(self, backbone: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Take the virtual tokens' own states away again."""
        if self._prepended:
            output.last_hidden_state = output.last_hidden_state[:, self.n :]
            if output.get("hidden_states") is not None:
                cut = (None if states is None else states[:, self.n :] for states in output.hidden_states)
                output.hidden_states = tuple(cut)  # None: of a layer that nobody asked for
        return output

    def _with_inputs(self, backbone: nn.Module, given: dict[str, Any], positions: Tensor | None) -> dict[str, Any]:
        embedded = given.get("inputs_embeds")
        if embedded is None:
            embedded = backbone.get_input_embeddings()(given["input_ids"])
        vectors = self.vectors().to(embedded.dtype).expand(len(embedded), -1, -1)
        changed = {"input_ids": None, "inputs_embeds": torch.cat([vectors, embedded], 1)}
        if positions is not None:
            own = torch.arange(self.n, device=positions.device).expand(len(positions), -1)
            changed["position_ids"] = torch.cat([own, positions], 1)
        return changed

    def _filled(self, backbone: nn.Module, cache: Cache | None, rows: int) -> Cache:
        """The cache with keys and values of the virtual tokens in every layer."""
        config = backbone.config.get_text_config()
        cache = DynamicCache(config=config) if cache is None else cache
        heads = key_value_heads(config)
        layers = self.vectors().to(backbone.dtype).unflatten(1, (2 * config.num_hidden_layers, heads, -1))
        for layer, (keys, values) in enumerate(layers.permute(1, 2, 0, 3).unflatten(0, (-1, 2))):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
        return cache

    def _widened(self, mask: Tensor, *, square: bool) -> Tensor:
        """The mask with n columns in front that every token may see; with rows for them where `square`.

        mask: (B, T), nonzero on tokens; or (B, 1, T, T), true or 0 where position i may see position j.
        """
        if mask.ndim == 2:
            return torch.cat([mask.new_ones(len(mask), self.n), mask], 1)
        seen, hidden = (True, False) if mask.dtype == torch.bool else (0.0, torch.finfo(mask.dtype).min)
        wide = torch.cat([mask.new_full((*mask.shape[:-1], self.n), seen), mask], -1)
        if not square:
            return wide
        own = mask.new_full((*mask.shape[:2], self.n, wide.shape[-1]), hidden)
        own[..., : self.n].masked_fill_(mask.new_ones(self.n, self.n).bool().tril(), seen)
        return torch.cat([own, wide], -2)


def add_virtual_tokens(model: PreTrainedModel, method: str, n: int, hidden: int) -> VirtualTokens:
    """New virtual tokens for a model. hidden: units of the network that makes them in `p_tuning` and `prefix`."""
    config = model.config.get_text_config()
    heads = key_value_heads(config)
    sizes = {"num_virtual_tokens": n, "num_transformer_submodules": 1, "num_layers": config.num_hidden_layers}
    at_input = {**sizes, "token_dim": config.hidden_size, "num_attention_heads": config.num_attention_heads}
    in_layers = {**sizes, "token_dim": heads * head_size(config), "num_attention_heads": heads}
    own: PeftConfig
    if method == "prompt":
        own = PromptTuningConfig(**at_input, prompt_tuning_init="SAMPLE_VOCAB")
        encoder = PromptEmbedding(own, model.get_input_embeddings())
    elif method == "p_tuning":
        own = PromptEncoderConfig(**at_input, encoder_hidden_size=hidden)
        encoder = PromptEncoder(own)
    else:
        own = PrefixTuningConfig(**in_layers, prefix_projection=method == "prefix", encoder_hidden_size=hidden)
        encoder = PrefixEncoder(own)
    tokens = VirtualTokens(encoder.to(model.device), own)
    tokens.attach(model)
    return tokens


def virtual_tokens(model: PreTrainedModel) -> VirtualTokens | None:
    """Those of a model, None where it has none."""
    return getattr(model.base_model, NAME, None)


def key_value_heads(config: Any) -> int:
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads


def head_size(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _rows(given: dict[str, Any]) -> int:
    return len(given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"])
