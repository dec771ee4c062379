"""Our rows as the columns that TRL's trainers read, and the refusal of rows that they cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.errors import ConfigError
from models.layout import Tree
from models.scorer import AXES
from train.batches import ShuffledBatches

Columns = dict[str, list[list[int]]]
IGNORED = -100  # TRL's label of a token that is no target


class Pair(NamedTuple):
    """A prompt and its two responses, as ids."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


def conversation_columns(trees: Sequence[Tree]) -> Columns:
    """Trees of one response as sequences, with their targets as labels."""
    return {
        "input_ids": [tree.prompt + response for tree in trees for response in tree.responses],
        "labels": [[IGNORED] * len(tree.prompt) + _labels(tree) for tree in trees],
    }


def pairs_of(trees: Sequence[Tree], preferences: Sequence[Tensor]) -> list[Pair]:
    """Trees as pairs. preferences: (K,) of each tree, larger is better.

    Raises ConfigError unless K = 2 and one is better.
    """
    found = []
    for number, (tree, preference) in enumerate(zip(trees, preferences, strict=True), start=1):
        if len(preference) != 2 or preference[0] == preference[1]:
            what = "two that tie" if len(preference) == 2 else f"{len(preference)} responses"
            raise ConfigError(
                f"engine=trl takes pairs of a better and a worse response, training ranking {number} has {what}; "
                "bring pairs, or use engine=ours"
            )
        best = int(preference.argmax())
        found.append(Pair(tree.prompt, tree.responses[best], tree.responses[1 - best]))
    return found


def only_axis(labelled: Sequence[Tensor]) -> int:
    """The one axis with labels. labelled: (K, A) of each ranking.

    Raises ConfigError unless every response has a label there, and none elsewhere.
    """
    axes = torch.cat(list(labelled)).any(0).nonzero().flatten().tolist()
    if len(axes) != 1:
        names = " and ".join(AXES[axis] for axis in axes) or "none"
        raise ConfigError(f"engine=trl trains one axis, the rankings have labels on {names}; use engine=ours")
    if not all(mask[:, axes[0]].all() for mask in labelled):
        raise ConfigError(f"engine=trl wants every response labelled on {AXES[axes[0]]}; use engine=ours")
    return axes[0]


def row_order(batches: ShuffledBatches) -> list[int]:
    """Rows from `start_step` on, in the order in which a loader that deals micro-batches out to one process after the
    other gives each process ours."""
    share, order = batches.share, []
    for step in range(batches.start_step, batches.steps):
        indices = batches.step_indices(step)
        for micro in range(share.accumulation):
            for rank in range(share.world):
                order += indices[rank * share.accumulation + micro :: share.world * share.accumulation]
    return order


def _labels(tree: Tree) -> list[int]:
    [response], [targets] = tree.responses, tree.targets
    return [token if wanted else IGNORED for token, wanted in zip(response, targets, strict=True)]
