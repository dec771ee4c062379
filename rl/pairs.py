"""Preference optimisation on rankings: prompt trees, their strict pairs, the reference's log-probabilities.

R = responses of a batch, P = pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.comparisons import strict_pairs
from models.errors import ConfigError, DataError
from models.layout import Batch, LayoutConfig, Tree, collate, fit
from models.logprobs import per_response, response_lengths, token_logprobs
from models.masked import ratio
from models.objective import Mean, Metrics
from rl.preference import PREFERENCE_LOSSES, PairLogprobs, options_of, preference_metrics


@dataclass
class PreferenceLoss:
    """Which loss of the family, and its numbers; a loss reads those that its formula has."""

    name: str = "dpo"
    beta: float = 0.1  # strength of the pull to the reference; in the units of the loss (sums, or means per token)
    label_smoothing: float = 0.0  # cdpo and robust: share of labels that are wrong
    gamma: float = 0.5  # simpo: target margin
    alpha: float = 1.0  # rpo: weight of the NLL of the chosen response
    nll: float = 0.0  # weight of the mean token NLL of each ranking's best response, beside any loss

    def __post_init__(self) -> None:
        if self.name not in PREFERENCE_LOSSES:
            raise ConfigError(f"loss.name={self.name}: expected one of {', '.join(sorted(PREFERENCE_LOSSES))}")
        if self.beta <= 0:
            raise ConfigError(f"loss.beta={self.beta}: expected above 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise ConfigError(f"loss.label_smoothing={self.label_smoothing}: expected in [0, 0.5)")
        if self.nll < 0:
            raise ConfigError(f"loss.nll={self.nll}: expected 0 or more")

    @property
    def options(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in options_of(self.name)}


class PreferenceRows:
    """Prompt trees with one preference score a response; each knows the reference's log-probabilities once asked.

    `n_dropped` rankings did not fit, or have responses that became equal when they were cut.
    """

    def __init__(
        self, trees: Sequence[Tree], preferences: Sequence[Tensor], layout: LayoutConfig, max_length: int
    ) -> None:
        fitted = [(fit(t, max_length, layout.long_prompt), p) for t, p in zip(trees, preferences, strict=True)]
        kept = [(t, p) for t, p in fitted if t is not None and len(set(map(tuple, t.responses))) == len(t.responses)]
        self.trees, self.preferences = [t for t, _ in kept], [p for _, p in kept]
        self.n_dropped = len(fitted) - len(kept)
        if not kept:
            raise DataError(f"none of {len(fitted)} rankings has distinct responses within {max_length} tokens")
        self.bin_tokens = layout.bin_tokens
        self.reference: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.trees)

    def collate(self, indices: Sequence[int]) -> Batch:
        batch = collate([self.trees[i] for i in indices], bin_tokens=self.bin_tokens)
        preference = torch.cat([self.preferences[i] for i in indices])
        pairs = strict_pairs(preference, torch.ones_like(preference, dtype=torch.bool), batch["tree"])
        best = torch.stack([self._best(i, offset) for i, offset in self._offsets(indices)])
        reference = torch.cat([self.reference[i] for i in indices]) if self.reference else torch.zeros_like(preference)
        return {
            **batch,
            "better": pairs.better,
            "worse": pairs.worse,
            "weight": 1.0 / pairs.n_of_prompt.float(),
            "best": best,
            "reference": reference,
            "units": torch.tensor([float(pairs.n_prompts), float(len(indices))]),
        }

    @torch.no_grad()
    def remember_reference(self, model: nn.Module, batch_size: int = 32) -> None:
        """Log-probabilities of all responses under the reference policy, computed once."""
        model.eval()
        device = next(model.parameters()).device
        found: list[Tensor] = []
        for start in range(0, len(self), batch_size):
            trees = self.trees[start : start + batch_size]
            batch = {k: v.to(device) for k, v in collate(trees, bin_tokens=self.bin_tokens).items()}
            sums = per_response(token_logprobs(model, batch).logprobs, batch).cpu()
            found += sums.split([len(tree.responses) for tree in trees])
        self.reference = found

    def _offsets(self, indices: Sequence[int]) -> list[tuple[int, int]]:
        offsets, total = [], 0
        for i in indices:
            offsets.append((i, total))
            total += len(self.trees[i].responses)
        return offsets

    def _best(self, index: int, offset: int) -> Tensor:
        return self.preferences[index].argmax() + offset


class PreferenceObjective:
    """A loss of the family over all strict pairs, each prompt weighing 1. units: (prompts with a pair, prompts)."""

    def __init__(self, cfg: PreferenceLoss) -> None:
        self.cfg, self.loss = cfg, PREFERENCE_LOSSES[cfg.name]

    def __call__(self, model: nn.Module, batch: Batch, units: Tensor) -> tuple[Tensor, Metrics]:
        logprobs, lengths = per_response(token_logprobs(model, batch).logprobs, batch), response_lengths(batch)
        policy, reference = pairs_of(logprobs, lengths, batch), pairs_of(batch["reference"], lengths, batch)
        weight = batch["weight"]
        loss = ratio((weight * self.loss(policy, reference, **self.cfg.options)).sum(), units[0])
        nll = -(logprobs[batch["best"]] / lengths[batch["best"]])
        total = loss + self.cfg.nll * nll.sum() / units[1]
        metrics = {
            name: Mean((weight * value).sum(), weight.sum())
            for name, value in preference_metrics(policy, reference, beta=self.cfg.beta).items()
        }
        metrics["nll_best"] = Mean(nll.detach().sum(), len(nll))
        metrics["preference_loss"] = Mean((loss * units[0]).detach(), batch["units"][0])
        return total, metrics


def pairs_of(logprobs: Tensor, lengths: Tensor, batch: Batch) -> PairLogprobs:
    """Both sides of the batch's pairs. logprobs, lengths: (R,)."""
    better, worse = batch["better"], batch["worse"]
    return PairLogprobs(logprobs[better], logprobs[worse], lengths[better], lengths[worse])
