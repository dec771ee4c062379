"""What preference optimisation reads: rankings, or single responses with a label, as rows for its losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from instruct.sources import WORLD
from models.chat import ChatFormat
from models.errors import ConfigError, DataError
from models.layout import LayoutConfig, Tree
from models.split import DataSource, Split, prompt_key, read_split
from reward.rankings import Ranking
from reward.readers import RankingData, read_rankings
from reward.training import ranking_tree
from rl.kto import KTORows
from rl.kto import labels_of as kto_labels
from rl.pairs import PreferenceRows
from rl.preference_loss import KTO, LISTWISE, PreferenceLoss
from rl.unpaired import Labelled, unpaired

UNPAIRED = "unpaired"


@dataclass(kw_only=True)
class PreferenceData(RankingData):
    """A source of rankings, or of responses with a label each (format unpaired, for loss=kto)."""

    def __post_init__(self) -> None:
        if self.format != UNPAIRED:
            super().__post_init__()
        else:
            DataSource.__post_init__(self)
        if self.format == UNPAIRED and self.axes:
            raise ConfigError(f"data.axes={self.axes}: not read by data=unpaired, whose labels speak of no axis")
        if self.path == WORLD:
            raise ConfigError("data=world_rankings: stages.reward makes them; name its rankings.jsonl, with data=kwise")

    def check(self, loss: PreferenceLoss) -> None:
        """Raise ConfigError where the loss cannot learn from such rows."""
        if self.format == UNPAIRED and loss.name != KTO:
            raise ConfigError(f"data=unpaired compares no responses, loss={loss.name} needs that; use loss=kto")


def read_preferences(data: PreferenceData) -> Split[Ranking] | Split[Labelled]:
    """The source's rows, split by prompt. Raises as `read_rankings`."""
    if data.format == UNPAIRED:
        return read_split(data, unpaired, lambda row: prompt_key(row.prompt))
    return read_rankings(data)


def preference_rows(
    records: Sequence[Ranking] | Sequence[Labelled],
    loss: PreferenceLoss,
    chat: ChatFormat,
    layout: LayoutConfig,
    max_length: int,
    policy: nn.Module,
    *,
    bf16: bool,
) -> PreferenceRows | KTORows:
    """Rows in the form that the loss learns from. A ranking has one score a response: the sum of its labelled axes."""
    trees, scores = [tree_of(record, chat) for record in records], [score_of(record) for record in records]
    if loss.name == KTO:
        labels = [s if isinstance(r, Labelled) else kto_labels(s) for r, s in zip(records, scores, strict=True)]
        return KTORows(trees, labels, layout, max_length, policy, bf16=bf16)
    if loss.name == LISTWISE and loss.ties != "strict":
        ordered = [is_ordered(ranking, score, loss.ties) for ranking, score in zip(records, scores, strict=True)]
        trees, scores = ([x for x, kept in zip(xs, ordered, strict=True) if kept] for xs in (trees, scores))
        if not trees:
            raise DataError(f"all {len(records)} rankings have ties; say loss.ties=strict, or use loss=sigmoid")
    return PreferenceRows(trees, scores, layout, max_length, pairs=loss.pairs)


def tree_of(record: Ranking | Labelled, chat: ChatFormat) -> Tree:
    """A prompt with its responses."""
    if isinstance(record, Labelled):
        return Tree.of(chat.prompt(record.prompt), [chat.response(record.response)])
    return ranking_tree(record, chat)


def score_of(record: Ranking | Labelled) -> Tensor:
    """(K,) sum over the axes on which every response is labelled; of a labelled response 1 or -1."""
    if isinstance(record, Labelled):
        return torch.tensor([1.0 if record.desirable else -1.0])
    axes = [axis for axis in zip(*record.scores, strict=True) if None not in axis]
    return torch.tensor(axes, dtype=torch.float32).sum(0) if axes else torch.zeros(len(record.responses))


def is_ordered(ranking: Ranking, score: Tensor, ties: str) -> bool:
    """Whether no two responses tie. Raises DataError where `ties` is error."""
    distinct = len(score.unique()) == len(score)
    if not distinct and ties == "error":
        raise DataError(
            f"{ranking.origin}: two of its {len(score)} responses tie, loss=listwise wants an order; leave such "
            "rankings out with loss.ties=drop, rank each response against those below it with loss.ties=strict, or use "
            "loss=sigmoid"
        )
    return distinct
