"""Attention tree by tree: all other layers see the tokens of a batch in one flat row, without padding and masks.

A model loaded with `attn_implementation=BY_TREE` attends as `sdpa` does, until its forward is given `trees`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from models.layout import Batch

BY_TREE = "sdpa_by_tree"
WIDENED_ON = ("cpu",)  # devices where the backward pass in bfloat16 takes three times as long as in float32


class Run(NamedTuple):
    """Consecutive tokens that attend in one call: a prompt, a response, or a prompt with its only response."""

    size: int
    prompt: int | None  # number of the run whose tokens these see beside their own
    mask: Tensor | None  # (1, 1, size, size of the prompt + size) bool; None: plainly causal


class FlatTrees:
    """The trees of a batch one after the other, F tokens. `n_read` counts the layers that attended by them."""

    def __init__(self, batch: Batch) -> None:
        segment, branch = batch["segment"], batch["branch"]
        self.places = segment.flatten().nonzero().squeeze(-1)  # (F,) flat index into B·T of every token
        bins = torch.arange(len(segment), device=segment.device)[:, None]
        tree = (bins * segment.shape[1] + segment).flatten()[self.places]
        self.runs = list(_runs(tree, branch.flatten()[self.places]))
        self.sizes = [run.size for run in self.runs]
        self.n_read = 0

    def flatten(self, plane: Tensor) -> Tensor:
        """(B, T) to (1, F)."""
        return plane.flatten()[self.places][None]

    def places_of(self, at: Tensor) -> Tensor:
        """Where flat positions of B·T, none of padding, stand among the F tokens."""
        return torch.searchsorted(self.places, at)


def _runs(tree: Tensor, branch: Tensor) -> Iterator[Run]:
    """tree, branch: (F,) of every token, those of a tree and of a branch in one piece each."""
    number, first_of_tree = 0, 0
    sizes = torch.unique_consecutive(tree, return_counts=True)[1].tolist()
    for branches in branch.split(sizes):
        names, counts = (x.tolist() for x in torch.unique_consecutive(branches, return_counts=True))
        if names[-1] <= 1:
            names, counts = [0], [len(branches)]
        for name, count in zip(names, counts, strict=True):
            if name and names[0] == 0:
                seen = torch.ones(count, counts[0] + count, dtype=torch.bool, device=branch.device).tril(counts[0])
                yield Run(count, first_of_tree, seen[None, None])
            else:
                yield Run(count, None, None)
            number += 1
        first_of_tree = number


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
    if query.device.type in WIDENED_ON:
        states = tuple(x.to(torch.promote_types(x.dtype, torch.float32)) for x in states)
    with torch.autocast("cpu", enabled=False):
        queries, keys, values = (x.split(trees.sizes, dim=2) for x in states)
        attended = []
        for i, run in enumerate(trees.runs):
            seen = (i,) if run.prompt is None else (run.prompt, i)
            k, v = (x[i] if len(seen) == 1 else torch.cat([x[j] for j in seen], dim=2) for x in (keys, values))
            attended.append(sdpa_attention_forward(module, queries[i], k, v, run.mask, **options)[0])
    return torch.cat(attended, dim=1).to(given), None


AttentionInterface.register(BY_TREE, attend_by_tree)
AttentionMaskInterface.register(BY_TREE, sdpa_mask)
