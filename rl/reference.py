"""The reference's log-probabilities of responses: asked once, before the first step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layout import Tree, collate
from models.logprobs import per_response, token_logprobs
from models.partitioned import whole


@torch.no_grad()
def response_logprobs(
    model: nn.Module, trees: Sequence[Tree], bin_tokens: int, *, bf16: bool, batch_size: int = 16
) -> list[Tensor]:
    """Summed over tokens, (K,) of each tree, on the CPU. bf16: in the precision of a training with bf16=true.

    Where the model's weights are partitioned every process must ask.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    found: list[Tensor] = []
    with whole(model), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for start in range(0, len(trees), batch_size):
            rows = trees[start : start + batch_size]
            batch = {name: value.to(device) for name, value in collate(rows, bin_tokens=bin_tokens).items()}
            sums = per_response(token_logprobs(model, batch).logprobs, batch).cpu()
            found += sums.split([len(tree.responses) for tree in rows])
    model.train(was_training)
    return found
