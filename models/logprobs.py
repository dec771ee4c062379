"""Log-probabilities: of training, reference, rollout and scoring, all from here.

B = bins, T = positions, N = target tokens, R = responses, H = hidden size, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.attention import BY_TREE, FlatTrees
from models.last_layer import feed_forward_only_at
from models.layout import NARROW, Batch, attention_mask
from models.virtual_tokens import virtual_tokens

CHUNK_ELEMENTS = 1 << 24  # logits that may exist at once: 64 MiB in float32
PART_ELEMENTS = 1 << 18  # logits that are worked on at once there: 1 MiB, which stays in a core's cache
PARTED_ON = ("cpu",)  # elsewhere a few rows would be a kernel's launch and no work


class TokenLogprobs(NamedTuple):
    """Of the batch's targets, in the batch's order."""

    logprobs: Tensor  # (N,) float32
    entropy: Tensor | None  # (N,) float32, of the whole distribution


def hidden_states(model: nn.Module, batch: Batch, at: Tensor) -> Tensor:
    """Last hidden states at flat positions of B·T, (len(at), H), through the model's own forward so that wrappers (DDP,
    ZeRO) see the call.

    Wide bins are attended to tree by tree, without padding. A model that does not hand the trees down to its layers is
    given a mask instead, from then on.
    """
    inner = _unwrapped(model)
    names = ("input_ids", "position_ids")
    wide = batch["segment"].shape[1] > NARROW
    if wide and inner.config._attn_implementation == BY_TREE and virtual_tokens(inner) is None:
        trees = FlatTrees(batch)
        places = trees.places_of(at)
        flat = {name: trees.flatten(batch[name]) for name in names}
        # Without a mask transformers would make one of all tokens by all tokens, for nobody to read.
        unread = flat["input_ids"].new_ones(1, 1, 1, 1, dtype=torch.bool)
        states = _last_states(model, places, **flat, attention_mask=unread, trees=trees)
        if trees.n_read >= inner.config.get_text_config().num_hidden_layers:
            return states
        inner.set_attn_implementation("sdpa")
    return _last_states(model, at, **{name: batch[name] for name in names}, attention_mask=attention_mask(batch))


def _last_states(model: nn.Module, at: Tensor, **inputs: Any) -> Tensor:
    with feed_forward_only_at(_unwrapped(model), at.unique(), inputs["input_ids"].numel()):
        output = model(**inputs, use_cache=False, output_hidden_states=[-1], **_no_logits(model))
    return output.hidden_states[-1].flatten(0, 1)[at]


def token_logprobs(
    model: nn.Module, batch: Batch, *, temperature: float = 1.0, with_entropy: bool = False
) -> TokenLogprobs:
    """Log-probability of each target under `softmax(logits / temperature)`.

    Only positions that predict a target reach the output layer, in chunks, in float32.
    """
    hidden = hidden_states(model, batch, batch["source"])
    return logprobs_from_hidden(
        hidden, batch["target"], _unwrapped(model).get_output_embeddings(), temperature, with_entropy
    )


def logprobs_from_hidden(
    hidden: Tensor, target: Tensor, head: nn.Linear, temperature: float = 1.0, with_entropy: bool = False
) -> TokenLogprobs:
    """hidden (N, H), target (N,): log-softmax of `head(hidden) / temperature` at the targets."""
    rows = max(1, CHUNK_ELEMENTS // head.out_features)

    def in_chunks(logits_of: Callable[[Tensor], Tensor], hidden: Tensor) -> tuple[Tensor, ...]:
        chunks = [
            _chunk(hidden[i : i + rows], target[i : i + rows], logits_of, temperature, with_entropy, len(hidden) > rows)
            for i in range(0, max(1, len(target)), rows)
        ]
        return tuple(map(torch.cat, zip(*chunks, strict=True)))

    logprobs, entropy = _in_one_call(head, in_chunks, hidden)
    return TokenLogprobs(logprobs, entropy if with_entropy else None)


def _in_one_call(
    layer: nn.Module, work: Callable[[Callable[[Tensor], Tensor], Tensor], tuple[Tensor, ...]], inputs: Tensor
) -> tuple[Tensor, ...]:
    """`work(forward, inputs)`, which calls the layer's forward as often as it likes, in one call of the layer: under
    ZeRO-3 each call gathers the weights, so all processes must make equally many."""
    own, forward = vars(layer).get("forward"), layer.forward
    layer.forward = partial(work, forward)
    try:
        return layer(inputs)
    finally:
        del layer.forward
        if own is not None:
            layer.forward = own


def per_response(values: Tensor, batch: Batch) -> Tensor:
    """Sum token values (N,) by response: (R,)."""
    return values.new_zeros(len(batch["ends"])).index_add(0, batch["response"], values)


def response_lengths(batch: Batch) -> Tensor:
    """Targets of each response, (R,) float."""
    return per_response(torch.ones_like(batch["target"], dtype=torch.float32), batch)


def _chunk(
    hidden: Tensor,
    target: Tensor,
    logits_of: Callable[[Tensor], Tensor],
    temperature: float,
    with_entropy: bool,
    recompute: bool,
) -> tuple[Tensor, Tensor]:
    def compute(hidden: Tensor) -> tuple[Tensor, Tensor]:
        return _AtTargets.apply(logits_of(hidden), target, temperature, with_entropy)

    return checkpoint(compute, hidden, use_reentrant=False) if recompute else compute(hidden)


class _AtTargets(torch.autograd.Function):
    """Log-softmax at the targets, and entropy. The gradient is written over the logits, a few rows at a time, so that
    no second table of their size exists."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        at_once = PART_ELEMENTS if logits.device.type in PARTED_ON else CHUNK_ELEMENTS
        norms, entropies, rows = [], [], max(1, at_once // logits.shape[-1])
        for part in logits.split(rows):
            scaled = _scaled(part, temperature)
            norms.append(scaled.logsumexp(-1))
            if with_entropy:
                entropies.append(norms[-1] - (scaled.softmax(-1) * scaled).sum(-1))
        norm = torch.cat(norms)
        entropy = torch.cat(entropies) if with_entropy else torch.zeros_like(norm)
        ctx.save_for_backward(logits, target, norm, entropy)
        ctx.temperature, ctx.rows = temperature, rows
        ctx.set_materialize_grads(False)  # an entropy that nothing descends costs nothing
        return logits.gather(-1, target[:, None])[:, 0].float() / temperature - norm, entropy

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, of_entropy: Tensor | None) -> tuple[Tensor, None, None, None]:
        """(1 at the target - p) / temperature; of the entropy -p (log p + entropy) / temperature."""
        logits, *columns = ctx.saved_tensors
        pulled = of_entropy is not None
        upstream = torch.zeros_like(columns[1]) if upstream is None else upstream
        columns += [upstream / ctx.temperature, of_entropy / ctx.temperature if pulled else upstream]
        for part, *of_part in zip(*(x.split(ctx.rows) for x in (logits, *columns)), strict=True):
            at, norms, entropies, weights, pulls = (column[:, None] for column in of_part)
            logs = _scaled(part, ctx.temperature) - norms
            scale = -weights - pulls * (logs + entropies) if pulled else -weights
            part.copy_(logs.exp_().mul_(scale).scatter_add_(-1, at, weights))
        return logits, None, None, None


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    """Over the temperature, in float32; the very logits where nothing is to be done."""
    return logits.float() if temperature == 1.0 else logits.float() / temperature


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel or a DeepSpeed engine."""
    return model.module if hasattr(model, "module") else model


def _no_logits(model: nn.Module) -> dict[str, int]:
    """Causal models are asked for the last position's logits alone; classifiers have no such option."""
    return {"logits_to_keep": 1} if _unwrapped(model).get_output_embeddings() is not None else {}
