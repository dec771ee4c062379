"""A rollout: what the policy answered, what that earned, and what policy and critic will learn from it.

R = responses, N = their tokens, T = the longest response.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.generation import Sample, sample
from models.layout import Batch, Tree, collate
from models.logprobs import per_response, token_logprobs
from rl.actor_critic import ActorCritic

Scorer = Callable[[Sequence[Tree]], Tensor]
"""Trees with one response each to (n, axes): how helpful, honest and harmless each response is. Larger is better."""


@dataclass(frozen=True)
class Rollout:
    """Responses to prompts under the policy that generated them. Token rows are zero-padded on the right."""

    trees: list[Tree]  # R, one response each
    ended: Tensor  # (R,) bool, the response closed its turn
    scores: Tensor  # (R, axes) the scorer's
    logprobs: Tensor  # (R, T) of the policy before the update, by the training forward
    ref_logprobs: Tensor  # (R, T)
    values: Tensor  # (R, T)
    mask: Tensor  # (R, T) bool
    entropy: float  # mean over tokens, nats
    seconds: dict[str, float] = field(default_factory=dict)  # where the time went


class RolloutEngine:
    """Generates and scores. One interface for whatever samples: here the policy itself, with its KV cache."""

    def __init__(
        self,
        reference: PreTrainedModel,
        scorer: Scorer,
        *,
        ends: set[int],
        max_new_tokens: int,
        temperature: float,
        bin_tokens: int,
        batch_size: int,
    ) -> None:
        self.reference, self.scorer = reference, scorer
        self.ends, self.max_new_tokens, self.temperature = ends, max_new_tokens, temperature
        self.bin_tokens, self.batch_size = bin_tokens, batch_size

    def generate(
        self, policy: PreTrainedModel, prompts: Sequence[list[int]], generator: torch.Generator
    ) -> list[Sample]:
        """One response a prompt, sampled at the engine's temperature."""
        return sample(
            policy,
            prompts,
            max_new_tokens=self.max_new_tokens,
            ends=self.ends,
            temperature=self.temperature,
            generator=generator,
            batch_size=self.batch_size,
        )

    @torch.no_grad()
    def collect(self, model: ActorCritic, prompts: Sequence[list[int]], generator: torch.Generator) -> Rollout:
        """Sample, score, and evaluate policy, reference and critic on every token."""
        clock = _Clock()
        samples = self.generate(model.policy, prompts, generator)
        trees = [Tree.of(prompt, [s.ids]) for prompt, s in zip(prompts, samples, strict=True)]
        clock.lap("rollout")
        scores = self.scorer(trees)
        clock.lap("scoring")
        model.eval()
        parts = [self._evaluate(model, trees[i : i + self.batch_size]) for i in range(0, len(trees), self.batch_size)]
        logprobs, ref_logprobs, values, entropy = (torch.cat(column) for column in zip(*parts, strict=True))
        lengths = torch.tensor([len(tree.responses[0]) for tree in trees])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        rows = [torch.zeros(mask.shape).masked_scatter(mask, x) for x in (logprobs, ref_logprobs, values)]
        clock.lap("evaluation")
        ended = torch.tensor([s.ended for s in samples])
        return Rollout(trees, ended, scores, *rows, mask, float(entropy.mean()), clock.laps)

    @torch.no_grad()
    def drift(self, policy: PreTrainedModel, trees: Sequence[Tree]) -> Tensor:
        """Log-ratio of policy and reference of each response, (R,): its mean over own samples estimates the KL."""
        found = []
        for start in range(0, len(trees), self.batch_size):
            batch = on_device(
                collate(trees[start : start + self.batch_size], bin_tokens=self.bin_tokens), policy.device
            )
            ours, theirs = (token_logprobs(m, batch, temperature=self.temperature) for m in (policy, self.reference))
            found.append(per_response(ours.logprobs - theirs.logprobs, batch).cpu())
        return torch.cat(found)

    def _evaluate(self, model: ActorCritic, trees: Sequence[Tree]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        device = next(model.parameters()).device
        batch = on_device(collate(trees, bin_tokens=self.bin_tokens), device)
        found = model(batch, self.temperature)
        reference = token_logprobs(self.reference, batch, temperature=self.temperature).logprobs
        return found.logprobs.cpu(), reference.cpu(), found.values.cpu(), found.entropy.cpu()


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch where the model is."""
    return {name: value.to(device) for name, value in batch.items()}


def freeze(model: nn.Module) -> nn.Module:
    """A model that only answers."""
    return model.eval().requires_grad_(False)


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now
