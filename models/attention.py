"""Attention tree by tree: all other layers see the tokens of a batch in one flat row, without padding and masks.

A model loaded with `attn_implementation=BY_TREE` attends as `sdpa` does, until its forward is given `trees`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from models.layout import Batch, visible

BY_TREE = "sdpa_by_tree"


class FlatTrees:
    """The trees of a batch one after the other, F tokens. `n_read` counts the layers that attended by them."""

    def __init__(self, batch: Batch) -> None:
        segment, branch = batch["segment"], batch["branch"]
        self.places = segment.flatten().nonzero().squeeze(-1)  # (F,) flat index into B·T of every token
        bins = torch.arange(len(segment), device=segment.device)[:, None]
        numbers = (bins * segment.shape[1] + segment).flatten()[self.places]
        self.sizes = torch.unique_consecutive(numbers, return_counts=True)[1].tolist()
        self.masks = [_mask(part) for part in branch.flatten()[self.places].split(self.sizes)]
        self.n_read = 0

    def flatten(self, plane: Tensor) -> Tensor:
        """(B, T) to (1, F)."""
        return plane.flatten()[self.places][None]


def _mask(branch: Tensor) -> Tensor | None:
    """Of one tree's branches (n,): (n, n) bool, or None for a single response, which is plainly causal."""
    return None if branch.max() <= 1 else visible(torch.ones_like(branch)[None], branch[None])[0]


def attend_by_tree(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    trees: FlatTrees | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """query, key, value: (1, heads, F, d). Returns (1, F, heads, d); the interface is that of transformers."""
    if trees is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    trees.n_read += 1
    states, given = (query, key, value), value.dtype
    if query.device.type == "cpu":  # in bfloat16 the backward pass takes three times as long there
        states = tuple(x.to(torch.promote_types(x.dtype, torch.float32)) for x in states)
    with torch.autocast("cpu", enabled=False):
        parts = zip(*(x.split(trees.sizes, dim=2) for x in states), trees.masks, strict=True)
        attended = [sdpa_attention_forward(module, q, k, v, mask, **options)[0] for q, k, v, mask in parts]
    return torch.cat(attended, dim=1).to(given), None


AttentionInterface.register(BY_TREE, attend_by_tree)
AttentionMaskInterface.register(BY_TREE, sdpa_mask)
