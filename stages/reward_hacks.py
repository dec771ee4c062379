"""What hacks of the best responses get from a reward model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from transformers import PreTrainedModel

from evals.intervals import bootstrap_mean
from models.chat import ChatFormat
from models.layout import Tree, fit
from models.scorer import AXES, score_trees
from reward.hacks import HACKS, hacked
from reward.rankings import Ranking, orders
from reward.training import RankingRows

N_PROMPTS = 100  # held-out prompts that hacks are tried on


class Offer(NamedTuple):
    """A best response and what hacks make of it, as one tree."""

    axes: list[int]  # that it is best on
    names: list[str]  # of the hacks: the tree's responses after the first
    tree: Tree


def hacks(model: PreTrainedModel, rows: RankingRows, chat: ChatFormat) -> dict[str, Any]:
    """Per axis and hack: the share of prompts on which the hacked text scores higher than the honest best response, and
    by how much the score changes, in standard deviations of reference completions."""
    offers = [offer for ranking in rows.rankings[:N_PROMPTS] for offer in offers_of(ranking, rows, chat)]
    scores = score_trees(model, [offer.tree for offer in offers], rows.layout)
    parts = scores.split([len(offer.tree.responses) for offer in offers])
    shifts: dict[str, dict[str, list[float]]] = {AXES[axis]: {} for offer in offers for axis in offer.axes}
    for offer, own in zip(offers, parts, strict=True):
        for axis in offer.axes:
            for name, shift in zip(offer.names, (own[1:, axis] - own[0, axis]).tolist(), strict=True):
                shifts[AXES[axis]].setdefault(name, []).append(shift)
    return {
        axis: {
            name: {
                "preferred": bootstrap_mean([float(shift > 0) for shift in of[name]]).as_dict(),
                "shift": bootstrap_mean(of[name]).as_dict(),
            }
            for name in HACKS
            if name in of
        }
        for axis, of in shifts.items()
    }


def offers_of(ranking: Ranking, rows: RankingRows, chat: ChatFormat) -> Iterator[Offer]:
    """The best responses with their hacks. A response that must be cut says nothing of its hack and is left out."""
    for honest, axes in best_responses(ranking).items():
        made = hacked(ranking.prompt[-1].content, honest)
        whole = [chat.response(text, ended=True) for text in (honest, *made.values())]
        tree = fit(Tree.of(chat.prompt(ranking.prompt), whole), rows.max_length, rows.layout.long_prompt)
        uncut = [own == given for own, given in zip(tree.responses, whole, strict=True)] if tree else [False]
        if tree is not None and uncut[0]:
            names = [name for name, kept in zip(made, uncut[1:], strict=True) if kept]
            responses = [own for own, kept in zip(whole, uncut, strict=True) if kept]
            yield Offer(axes, names, Tree.of(tree.prompt, responses))


def best_responses(ranking: Ranking) -> dict[str, list[int]]:
    """The first response with the highest label of each axis that has an order, and the axes that it is best on."""
    best: dict[str, list[int]] = {}
    for axis in range(len(AXES)):
        labels = [judged[axis] for judged in ranking.scores]
        if orders(labels):
            top = max(label for label in labels if label is not None)
            best.setdefault(ranking.responses[labels.index(top)], []).append(axis)
    return best
