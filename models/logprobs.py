"""Log-probabilities: of training, reference, rollout and scoring, all from here.

B = bins, T = positions, N = target tokens, R = responses, H = hidden size, V = vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from models.layout import Batch, attention_mask

CHUNK_ELEMENTS = 1 << 24  # logits that may exist at once: 64 MiB in float32


class TokenLogprobs(NamedTuple):
    """Of the batch's targets, in the batch's order."""

    logprobs: Tensor  # (N,) float32
    entropy: Tensor | None  # (N,) float32, of the whole distribution, without gradient


def hidden_states(model: nn.Module, batch: Batch) -> Tensor:
    """Last hidden states, (B·T, H), through the model's own forward so that wrappers (DDP, ZeRO) see the call."""
    output = model(
        input_ids=batch["input_ids"],
        attention_mask=attention_mask(batch),
        position_ids=batch["position_ids"],
        use_cache=False,
        output_hidden_states=True,
        **_no_logits(model),
    )
    return output.hidden_states[-1].flatten(0, 1)


def token_logprobs(
    model: nn.Module, batch: Batch, *, temperature: float = 1.0, with_entropy: bool = False
) -> TokenLogprobs:
    """Log-probability of each target under `softmax(logits / temperature)`.

    Only positions that predict a target reach the output layer, in chunks, in float32.
    """
    hidden = hidden_states(model, batch)[batch["source"]]
    return logprobs_from_hidden(
        hidden, batch["target"], _unwrapped(model).get_output_embeddings(), temperature, with_entropy
    )


def logprobs_from_hidden(
    hidden: Tensor, target: Tensor, head: nn.Linear, temperature: float = 1.0, with_entropy: bool = False
) -> TokenLogprobs:
    """hidden (N, H), target (N,): log-softmax of `head(hidden) / temperature` at the targets."""
    rows = max(1, CHUNK_ELEMENTS // head.out_features)
    chunks = [
        _chunk(hidden[i : i + rows], target[i : i + rows], head, temperature, with_entropy, hidden.shape[0] > rows)
        for i in range(0, max(1, len(target)), rows)
    ]
    logprobs = torch.cat([c.logprobs for c in chunks])
    return TokenLogprobs(logprobs, torch.cat([c.entropy for c in chunks]) if with_entropy else None)


def per_response(values: Tensor, batch: Batch) -> Tensor:
    """Sum token values (N,) by response: (R,)."""
    return values.new_zeros(len(batch["ends"])).index_add(0, batch["response"], values)


def response_lengths(batch: Batch) -> Tensor:
    """Targets of each response, (R,) float."""
    return per_response(torch.ones_like(batch["target"], dtype=torch.float32), batch)


def _chunk(
    hidden: Tensor, target: Tensor, head: nn.Module, temperature: float, with_entropy: bool, recompute: bool
) -> TokenLogprobs:
    def compute(hidden: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(hidden).float()
        if temperature != 1.0:
            logits = logits / temperature
        picked = -cross_entropy(logits, target, reduction="none")
        with torch.no_grad():
            entropy = logits.logsumexp(-1) - (logits.softmax(-1) * logits).sum(-1) if with_entropy else picked
        return picked, entropy

    logprobs, entropy = checkpoint(compute, hidden, use_reentrant=False) if recompute else compute(hidden)
    return TokenLogprobs(logprobs, entropy.detach() if with_entropy else None)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel or a DeepSpeed engine."""
    return model.module if hasattr(model, "module") else model


def _no_logits(model: nn.Module) -> dict[str, int]:
    """Causal models are asked for the last position's logits alone; classifiers have no such option."""
    return {"logits_to_keep": 1} if _unwrapped(model).get_output_embeddings() is not None else {}
