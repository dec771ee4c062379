"""KTO on prompt trees: each response is desirable or not by itself, paired with nothing.

R = responses of a batch, K = responses of a tree. A row's mismatched response is that of another prompt; how much more
likely the policy finds those than the reference does is the point from which desirable and undesirable are told apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.errors import DataError
from models.layout import Batch, LayoutConfig, Tree, collate, fit
from models.logprobs import per_response, response_lengths, token_logprobs
from models.masked import ratio
from models.objective import Mean, Metrics
from rl.pairs import check_start
from rl.preference import kto, kto_baseline
from rl.preference_loss import PreferenceLoss
from rl.reference import response_logprobs

BALANCED = (1.0, 4 / 3)  # of desirable to undesirable, by number and weight (Ethayarajh et al. 2024, section 4.2)


def labels_of(preference: Tensor) -> Tensor:
    """(K,) 1 above the mean of the ranking, -1 below, 0 at it. Of a pair: chosen and rejected."""
    gap = preference.double() - preference.double().mean()
    return torch.where(gap.abs() < 1e-6, 0.0, gap.sign()).float()


class KTORows:
    """Prompt trees with a label a response: 1 desirable, -1 undesirable, 0 neither; of those that fit.

    Collating runs the policy on the rows' mismatched responses, so batches must be made as they are used. The sums are
    part of the units, and so the baseline is that of the whole optimizer step, all micro-batches and processes.
    """

    def __init__(
        self,
        trees: Sequence[Tree],
        labels: Sequence[Tensor],
        layout: LayoutConfig,
        max_length: int,
        policy: nn.Module,
        *,
        bf16: bool,
    ) -> None:
        fitted = [(fit(t, max_length, layout.long_prompt), label) for t, label in zip(trees, labels, strict=True)]
        kept = [(tree, label) for tree, label in fitted if tree is not None and label.any()]
        self.trees, self.labels = [tree for tree, _ in kept], [label for _, label in kept]
        self.mismatched = mismatched(self.trees, max_length)
        self.bin_tokens, self.policy, self.bf16 = layout.bin_tokens, policy, bf16
        self.reference: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.trees)

    @property
    def referred(self) -> list[Tree]:
        """What the reference is asked about."""
        return self.trees + self.mismatched

    def refer(self, logprobs: list[Tensor]) -> None:
        """Take the reference's log-probabilities of `referred`, (K,) each."""
        self.reference = logprobs

    def collate(self, indices: Sequence[int]) -> Batch:
        labels = torch.cat([self.labels[i] for i in indices])
        drift = self._drift(indices)
        counts = [labels.count_nonzero(), drift.sum(), len(drift)]
        return {
            **collate([self.trees[i] for i in indices], bin_tokens=self.bin_tokens),
            "labels": labels,
            "reference": torch.cat([self.reference[i] for i in indices]),
            "progress": torch.tensor(1.0),
            "units": torch.tensor([float(count) for count in counts]),
        }

    def balance(self, cfg: PreferenceLoss) -> float:
        """Weight of the desirable responses over that of the undesirable."""
        labels = torch.cat(self.labels)
        good, bad = int((labels > 0).sum()), int((labels < 0).sum())
        return good * cfg.weight_desirable / max(bad * cfg.weight_undesirable, 1e-9)

    def _drift(self, indices: Sequence[int]) -> Tensor:
        """Log policy - log reference of each row's mismatched response, (rows,)."""
        asked = [self.mismatched[i] for i in indices]
        found = response_logprobs(self.policy, asked, self.bin_tokens, bf16=self.bf16)
        return torch.cat(found) - torch.cat([self.reference[len(self.trees) + i] for i in indices])


def mismatched(trees: Sequence[Tree], max_length: int) -> list[Tree]:
    """Each prompt with the first response of the next row that has another prompt.

    The pairs are those of the data, not of a batch, so that no split into micro-batches changes them, and the reference
    is asked once.
    """
    if len({tuple(tree.prompt) for tree in trees}) < 2:
        raise DataError("loss=kto pairs responses with other prompts: expected rows of at least 2 prompts")
    found: list[Tree] = []
    following = trees[0]
    for tree, after in reversed(list(zip(trees, [*trees[1:], trees[0]], strict=True))):
        following = after if after.prompt != tree.prompt else following
        if following.prompt == tree.prompt:  # the last rows share the first one's prompt
            following = next(other for other in trees if other.prompt != tree.prompt)
        found.append(Tree.of(tree.prompt, [following.responses[0][: max(1, max_length - len(tree.prompt))]]))
    return found[::-1]


class KTOObjective:
    """KTO over all labelled responses. units: (labelled responses, sum of the mismatched log-ratios, their number)."""

    def __init__(self, cfg: PreferenceLoss, *, starts_at_reference: bool = False, tolerance: float = 1e-3) -> None:
        self.cfg, self.starts_at_reference, self.tolerance = cfg, starts_at_reference, tolerance

    def __call__(self, model: nn.Module, batch: Batch, units: Tensor) -> tuple[Tensor, Metrics]:
        logprobs, progress = per_response(token_logprobs(model, batch).logprobs, batch), float(batch["progress"])
        if self.starts_at_reference and progress == 0:
            check_start(logprobs, batch["reference"], response_lengths(batch), self.tolerance)
        beta, labels = self.cfg.beta_at(progress), batch["labels"]
        log_ratio, baseline = logprobs - batch["reference"], kto_baseline(units[1], units[2])
        losses = kto(
            log_ratio,
            labels > 0,
            baseline,
            beta=beta,
            weight_desirable=self.cfg.weight_desirable,
            weight_undesirable=self.cfg.weight_undesirable,
        )
        labelled = (losses * labels.abs()).sum()
        metrics = {"preference_loss": Mean(labelled.detach(), batch["units"][0]), "kl": Mean(baseline, 1)}
        for side, mask in {"chosen": labels > 0, "rejected": labels < 0}.items():
            metrics[f"rewards/{side}"] = Mean(beta * log_ratio.detach()[mask].sum(), mask.sum())
            metrics[f"logps/{side}"] = Mean(logprobs.detach()[mask].sum(), mask.sum())
        return ratio(labelled, units[0]), metrics
