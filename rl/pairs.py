"""Preference optimisation on rankings: prompt trees, their strict pairs or whole orders, and the objective.

R = responses of a batch, P = pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.comparisons import strict_pairs
from models.errors import DataError, NumericsError
from models.layout import Batch, LayoutConfig, Tree, collate_rankings, fit
from models.logprobs import per_response, response_lengths, token_logprobs
from models.masked import ratio
from models.objective import Mean, Metrics
from rl.preference import LENGTH_NORMALISED, PAIRWISE, PairLogprobs, listwise, preference_metrics
from rl.preference_loss import LISTWISE, PreferenceLoss

SIDES = {"chosen": "better", "rejected": "worse"}


class PreferenceRows:
    """Prompt trees with one preference score a response. `reference` holds the reference's log-probabilities of each
    tree's responses, where the loss has a reference.

    pairs: `all` strict pairs of a ranking, or `best_worst`. Rankings that do not fit, or whose responses became equal
    when they were cut, are left out.
    """

    def __init__(
        self,
        trees: Sequence[Tree],
        preferences: Sequence[Tensor],
        layout: LayoutConfig,
        max_length: int,
        *,
        pairs: str = "all",
    ) -> None:
        fitted = [(fit(t, max_length, layout.long_prompt), p) for t, p in zip(trees, preferences, strict=True)]
        kept = [(t, p) for t, p in fitted if t is not None and len(set(map(tuple, t.responses))) == len(t.responses)]
        self.trees, self.preferences = [t for t, _ in kept], [p for _, p in kept]
        if not kept:
            raise DataError(f"none of {len(fitted)} rankings has distinct responses within {max_length} tokens")
        self.layout, self.pairs = layout, pairs
        self.reference: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.trees)

    @property
    def referred(self) -> list[Tree]:
        """What the reference is asked about."""
        return self.trees

    def refer(self, logprobs: list[Tensor]) -> None:
        """Take the reference's log-probabilities of `referred`, (K,) each."""
        self.reference = logprobs

    def collate(self, indices: Sequence[int]) -> Batch:
        batch = collate_rankings([self.trees[i] for i in indices], self.layout)
        preference, tree = torch.cat([self.preferences[i] for i in indices]), batch["tree"]
        compared = extremes(preference, tree) if self.pairs == "best_worst" else torch.ones_like(tree, dtype=torch.bool)
        pairs = strict_pairs(preference, compared, tree)
        reference = torch.cat([self.reference[i] for i in indices]) if self.reference else torch.zeros_like(preference)
        return {
            **batch,
            "preference": preference,
            "better": pairs.better,
            "worse": pairs.worse,
            "weight": 1.0 / pairs.n_of_prompt.float(),
            "best": torch.stack([self._best(i, offset) for i, offset in self._offsets(indices)]),
            "reference": reference,
            "progress": torch.tensor(1.0),  # rows outside of a training are measured as at its end
            "units": torch.tensor([float(pairs.n_prompts), float(len(indices))]),
        }

    def _offsets(self, indices: Sequence[int]) -> list[tuple[int, int]]:
        offsets, total = [], 0
        for i in indices:
            offsets.append((i, total))
            total += len(self.trees[i].responses)
        return offsets

    def _best(self, index: int, offset: int) -> Tensor:
        return self.preferences[index].argmax() + offset


def extremes(preference: Tensor, tree: Tensor) -> Tensor:
    """(R,) bool, the best and the worst responses of each tree; several where they tie."""
    siblings = tree[:, None] == tree[None, :]
    over = (siblings & (preference[None, :] > preference[:, None])).any(1)
    under = (siblings & (preference[None, :] < preference[:, None])).any(1)
    return (over & under).logical_not()


class PreferenceObjective:
    """A loss of the family over pairs or whole rankings, each prompt weighing 1. units: (prompts with a pair, prompts).

    starts_at_reference: whether policy and reference are the same before the first step, which is then checked.
    """

    def __init__(self, cfg: PreferenceLoss, *, starts_at_reference: bool = False, tolerance: float = 1e-3) -> None:
        self.cfg, self.tolerance = cfg, tolerance
        self.starts_at_reference = starts_at_reference and cfg.has_reference
        self.normalised = cfg.length_normalised or cfg.name in LENGTH_NORMALISED

    def __call__(self, model: nn.Module, batch: Batch, units: Tensor) -> tuple[Tensor, Metrics]:
        logprobs, lengths = per_response(token_logprobs(model, batch).logprobs, batch), response_lengths(batch)
        progress = float(batch["progress"])
        if self.starts_at_reference and progress == 0:
            check_start(logprobs, batch["reference"], lengths, self.tolerance)
        beta, weight = self.cfg.beta_at(progress), batch["weight"]
        per = lengths if self.normalised else torch.ones_like(lengths)
        policy, reference = (pairs_of(x / per, lengths / per, batch) for x in (logprobs, batch["reference"]))
        if self.cfg.name == LISTWISE:
            terms = listwise(logprobs / per, batch["reference"] / per, ranked_below(batch), beta=beta)
        else:
            terms = weight * PAIRWISE[self.cfg.name](policy, reference, beta=beta, **self.cfg.numbers)
        nll = -(logprobs[batch["best"]] / lengths[batch["best"]])
        total = ratio(terms.sum(), units[0]) + self.cfg.nll * nll.sum() / units[1]
        seen = preference_metrics(policy, reference, beta=beta)
        seen |= {f"logps/{side}": logprobs[batch[rows]].detach() for side, rows in SIDES.items()}
        metrics = {name: Mean((weight * value).sum(), weight.sum()) for name, value in seen.items()}
        metrics["nll_best"] = Mean(nll.detach().sum(), len(nll))
        metrics["preference_loss"] = Mean(terms.detach().sum(), batch["units"][0])
        if self.cfg.beta_end is not None:
            metrics["beta"] = Mean(beta, 1)
        return total, metrics


def ranked_below(batch: Batch) -> Tensor:
    """(R, R) bool, whether the second response is a sibling of the first and ranks strictly below it."""
    preference, tree = batch["preference"], batch["tree"]
    return (tree[:, None] == tree[None, :]) & (preference[None, :] < preference[:, None])


def pairs_of(logprobs: Tensor, lengths: Tensor, batch: Batch) -> PairLogprobs:
    """Both sides of the batch's pairs. logprobs, lengths: (R,)."""
    better, worse = batch["better"], batch["worse"]
    return PairLogprobs(logprobs[better], logprobs[worse], lengths[better], lengths[worse])


def check_start(logprobs: Tensor, reference: Tensor, lengths: Tensor, tolerance: float) -> None:
    """Before any step the policy is the reference, so that every loss has its value there (sigmoid ln 2, ipo 1/(4β²)).

    tolerance: nats per token by which two forwards may differ. Raises NumericsError.
    """
    worst = float(((logprobs.detach() - reference) / lengths).abs().max())
    if not worst <= tolerance:
        raise NumericsError(
            f"before the first step the policy is off its reference by {worst:.2g} nats a token; they see different "
            "rows or weights (dropout, mask, template or precision)"
        )
