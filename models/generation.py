"""Sampling from a policy: a KV cache, prompts grouped by length, finished rows leave the batch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicCache

from models.chat import ChatFormat


class Sample(NamedTuple):
    """A generated response: its ids (the end token included, where there is one), and whether it ended by itself."""

    ids: list[int]
    ended: bool


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, chat: ChatFormat | None = None) -> set[int]:
    """Every token that ends a response: end of turn, the tokenizer's end of text, the generation config's ends."""
    ends = model.generation_config.eos_token_id if model.generation_config is not None else None
    listed = ends if isinstance(ends, list) else [ends]
    closing = chat.end_ids[-1:] if chat is not None else []
    return {int(token) for token in [*listed, tokenizer.eos_token_id, *closing] if token is not None}


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    ends: Collection[int],
    temperature: float,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    batch_size: int = 128,
) -> list[Sample]:
    """One response a prompt, greedy where `temperature` is 0.

    Each prompt has its own stream of uniform numbers, by its place in the list (or of its own generator) and drawn
    before anything is generated, so neither batch size nor the prompts beside it change a response (up to rounding of
    the logits).
    """
    was_training = model.training
    model.eval()
    uniforms = _uniforms(len(prompts), max_new_tokens, generator)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: dict[int, Sample] = {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = _Decoding(model, [prompts[i] for i in rows], frozenset(ends), temperature, uniforms[rows])
        found.update(zip(rows, batch.run(max_new_tokens), strict=True))
    model.train(was_training)
    return [found[i] for i in range(len(prompts))]


def _uniforms(n_rows: int, n_steps: int, generator: torch.Generator | Sequence[torch.Generator] | None) -> Tensor:
    if isinstance(generator, Sequence):
        return torch.stack([torch.rand(n_steps, generator=own) for own in generator])
    return torch.rand(n_rows, n_steps, generator=generator)


class _Decoding:
    """The state of one batch: left-padded prompts, then one column a step."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: list[list[int]],
        ends: frozenset[int],
        temperature: float,
        uniforms: Tensor,
    ) -> None:
        self.model, self.temperature, self.device = model, temperature, model.device
        self.uniforms = uniforms.to(self.device)
        self.ends = torch.tensor(sorted(ends), device=self.device)
        longest = max(map(len, prompts))
        padded = [[0] * (longest - len(p)) + p for p in prompts]
        self.ids = torch.tensor(padded, device=self.device)
        lengths = torch.tensor([len(p) for p in prompts], device=self.device)
        self.mask = torch.arange(longest, device=self.device) >= (longest - lengths)[:, None]
        self.position = lengths
        self.alive = torch.arange(len(prompts), device=self.device)
        self.responses: list[list[int]] = [[] for _ in prompts]
        self.ended = [False] * len(prompts)

    def run(self, max_new_tokens: int) -> list[Sample]:
        cache = DynamicCache(config=self.model.config)
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        logits = self._forward(self.ids, positions, cache)
        for step in range(max_new_tokens):
            tokens = self._choose(logits, step)
            going = self._record(tokens)
            if not going.any() or step + 1 == max_new_tokens:
                break
            if not going.all():
                tokens = self._drop_finished(going, tokens, cache)
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.alive), 1)], dim=1)
            logits = self._forward(tokens[:, None], self.position[:, None], cache)
            self.position = self.position + 1
        return [Sample(ids, ended) for ids, ended in zip(self.responses, self.ended, strict=True)]

    def _forward(self, ids: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        output = self.model(
            input_ids=ids,
            attention_mask=self.mask.long(),
            position_ids=positions,
            cache=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()

    def _choose(self, logits: Tensor, step: int) -> Tensor:
        if self.temperature == 0:
            return logits.argmax(-1)
        cumulative = (logits / self.temperature).softmax(-1).double().cumsum(-1)
        drawn = self.uniforms[self.alive, step].double()[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, drawn, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)

    def _record(self, tokens: Tensor) -> Tensor:
        """Append one token to each row that goes on; True where it still goes on."""
        finished = torch.isin(tokens, self.ends)
        for row, token, done in zip(self.alive.tolist(), tokens.tolist(), finished.tolist(), strict=True):
            self.responses[row].append(token)
            self.ended[row] = done
        return finished.logical_not()

    def _drop_finished(self, going: Tensor, tokens: Tensor, cache: DynamicCache) -> Tensor:
        keep = going.nonzero().squeeze(-1)
        cache.batch_select_indices(keep)
        self.alive, self.mask, self.position = self.alive[keep], self.mask[keep], self.position[keep]
        return tokens[keep]
