"""Learning from rankings: rows of prompt trees with labels on each axis, the objective, and the reference statistics.

J = judges, K = responses of a ranking, R = responses of a batch, A = axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.chat import ChatFormat
from models.errors import ConfigError, DataError
from models.layout import Batch, LayoutConfig, Tree, collate_rankings, fit
from models.objective import Mean, Metrics
from models.scorer import AXES, raw_scores
from reward.judged_pairs import JudgedPairs, Labels
from reward.losses import Sums, accuracy_sums, combine_axes, kwise_sums, plackett_luce_sums, regression_sums
from reward.rankings import Ranking, merged, why_unusable

LOSSES = ("pairs", "plackett_luce", "regression")


@dataclass
class RewardLoss:
    """How rankings become a loss."""

    name: str = "pairs"  # pairs: all of a prompt's; plackett_luce: its whole order; regression: the labels themselves
    center: float = 0.01  # pulls the scores of a pair towards a sum of 0; nothing in a regression, which fixes scores
    margin: float = 0.0  # of pairs: scores shall be apart by this times the distance of the labels (Llama 2)
    label_smoothing: float = 0.0  # of pairs: how often a label is taken to be wrong, in [0, 0.5)
    ties: str = "drop"  # of pairs: equally good responses make no pair, or half: one whose scores shall be equal
    helpful: float = 1.0  # weight of the axis
    honest: float = 1.0
    harmless: float = 1.0

    def __post_init__(self) -> None:
        for name, allowed in (("name", LOSSES), ("ties", ("drop", "half"))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"loss.{name}={getattr(self, name)}: expected one of {', '.join(allowed)}")
        for name in (*AXES, "center", "margin"):
            if getattr(self, name) < 0:
                raise ConfigError(f"loss.{name}={getattr(self, name)}: expected 0 or more")
        if not 0 <= self.label_smoothing < 0.5:
            raise ConfigError(f"loss.label_smoothing={self.label_smoothing}: expected in [0, 0.5)")
        of_pairs = {"margin": 0.0, "label_smoothing": 0.0, "ties": "drop"}
        for name, off in of_pairs.items():
            if self.name != "pairs" and getattr(self, name) != off:
                raise ConfigError(f"loss.{name}={getattr(self, name)}: has a meaning with loss.name=pairs alone")

    @property
    def weights(self) -> list[float]:
        return [getattr(self, axis) for axis in AXES]

    def sums(self, scores: Tensor, labels: Labels) -> Sums:
        """Per axis, the loss summed over prompts, and how many have one; see `reward.losses`."""
        if self.name == "plackett_luce":
            return plackett_luce_sums(scores, labels, center=self.center)
        if self.name == "regression":
            return regression_sums(scores, labels)
        return kwise_sums(
            scores,
            labels,
            center=self.center,
            label_smoothing=self.label_smoothing,
            margin=self.margin,
            ties=self.ties == "half",
        )


def labels_of(ranking: Ranking) -> tuple[Tensor, Tensor]:
    """Scores (J, K, A) by each judge, 0 where unlabelled, and the mask of what is labelled."""
    planes = ranking.judgements
    labelled = torch.tensor([[[score is not None for score in scores] for scores in plane] for plane in planes])
    return torch.tensor([[[score or 0.0 for score in scores] for scores in plane] for plane in planes]), labelled


def pairs_of(ranking: Ranking, axis: int) -> JudgedPairs:
    """The judged pairs of a ranking on the axis; rows are places in it."""
    values, known = labels_of(ranking)
    return Labels(values, known, torch.zeros(values.shape[1], dtype=torch.long)).pairs(axis)


def ranking_tree(ranking: Ranking, chat: ChatFormat, ended: Sequence[bool] | None = None) -> Tree:
    """A ranking as a prompt tree; every response is closed unless `ended` says that it was cut off."""
    closed = ended or [True] * len(ranking.responses)
    responses = [chat.response(text, ended=end) for text, end in zip(ranking.responses, closed, strict=True)]
    return Tree.of(chat.prompt(ranking.prompt), responses)


class RankingRows:
    """Prompt trees with the labels of their responses.

    Left out are `n_dropped` rankings that did not fit `max_length`, and `n_alike` whose responses are all the same once
    they are cut to it. Raises DataError where none is left, and where the loss has no likelihood for a tie.
    """

    def __init__(
        self,
        rankings: Sequence[Ranking],
        chat: ChatFormat,
        layout: LayoutConfig,
        max_length: int,
        loss: RewardLoss | None = None,
    ) -> None:
        fitted = [(r, fit(ranking_tree(r, chat), max_length, layout.long_prompt)) for r in rankings]
        whole = [(r, tree) for r, tree in fitted if tree is not None]
        kept = [pair for r, tree in whole if (pair := without_alike(r, tree)) is not None]
        self.n_dropped, self.n_alike = len(fitted) - len(whole), len(whole) - len(kept)
        if not kept:
            cut = f", {self.n_alike} of them because cut responses are alike" if self.n_alike else ""
            raise DataError(f"none of {len(fitted)} rankings fits {max_length} tokens{cut}; raise layout.max_length")
        self.rankings, self.trees = [r for r, _ in kept], [tree for _, tree in kept]
        self.labels = [labels_of(r) for r in self.rankings]
        self.layout, self.max_length, self.loss = layout, max_length, loss or RewardLoss()
        if self.loss.name == "plackett_luce":
            for ranking in self.rankings:
                refuse_ties(ranking)

    def __len__(self) -> int:
        return len(self.trees)

    def labels_of_one_judge(self) -> list[tuple[Tensor, Tensor]]:
        """Scores (K, A) and what is labelled of each row. Raises ConfigError where a row has several judges."""
        for ranking in self.rankings:
            if ranking.votes:
                raise ConfigError(f"{ranking.origin}: several judges, of whom engine=trl wants one; use engine=ours")
        return [(labels[0], labelled[0]) for labels, labelled in self.labels]

    def collate(self, indices: Sequence[int]) -> Batch:
        labels = stacked([self.labels[i][0] for i in indices])
        labelled = stacked([self.labels[i][1] for i in indices])
        batch = collate_rankings([self.trees[i] for i in indices], self.layout)
        counts = self.loss.sums(torch.zeros_like(labels[0]), Labels(labels, labelled, batch["tree"]))["n_prompts"]
        return {**batch, "labels": labels, "labelled": labelled, "prompt": batch["tree"], "units": counts.float()}


def without_alike(ranking: Ranking, tree: Tree) -> tuple[Ranking, Tree] | None:
    """Responses that are the same once they are cut count as one, as equal texts do; None where no order is left."""
    keys = [tuple(response) for response in tree.responses]
    places = [keys.index(key) for key in dict.fromkeys(keys)]
    if len(places) == len(keys):
        return ranking, tree
    fewer = merged(ranking, keys)
    if why_unusable(fewer):
        return None
    return fewer, Tree(tree.prompt, [tree.responses[k] for k in places], [tree.targets[k] for k in places])


def stacked(planes: Sequence[Tensor]) -> Tensor:
    """(J_i, K_i, A) each as one (J, R, A); rankings of fewer judges have planes of zeros, that is nothing labelled."""
    most = max(len(p) for p in planes)
    return torch.cat([torch.cat([p, p.new_zeros((most - len(p), *p.shape[1:]))]) for p in planes], dim=1)


def refuse_ties(ranking: Ranking) -> None:
    """Raise DataError where two responses have one place on an axis."""
    for axis, scores in zip(AXES, zip(*ranking.scores, strict=True), strict=True):
        known = [score for score in scores if score is not None]
        if len(set(known)) < len(known):
            raise DataError(
                f"{ranking.origin}: two responses tie on {axis}, and loss.name=plackett_luce has no likelihood for "
                "ties; use loss.name=pairs, or leave the row out"
            )


class RankingObjective:
    """The loss of every axis on the head's raw scores. units: (A,) prompts that have one on the axis."""

    def __init__(self, cfg: RewardLoss) -> None:
        self.cfg = cfg

    def __call__(self, model: nn.Module, batch: Batch, units: Tensor) -> tuple[Tensor, Metrics]:
        scores = raw_scores(model, batch)
        labels = Labels(batch["labels"], batch["labelled"], batch["prompt"])
        sums, counted = self.cfg.sums(scores, labels), accuracy_sums(scores, labels)
        loss = combine_axes(sums["loss"], units, scores.new_tensor(self.cfg.weights))
        metrics = {f"loss/{axis}": Mean(sums["loss"][k].detach(), sums["n_prompts"][k]) for k, axis in enumerate(AXES)}
        metrics |= {
            f"{name}/{axis}": Mean(counted[key][k], counted["n_prompts"][k])
            for name, key in (("accuracy", "correct"), ("margin", "margin"))
            for k, axis in enumerate(AXES)
        }
        return loss, metrics
