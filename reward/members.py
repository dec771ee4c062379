"""A reward model as a policy's responses meet it: by the policy's own token ids where it shares them, else by text.

R = responses, A = axes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from models.errors import ConfigError
from models.layout import Tree
from models.loading import tokenizer_digest
from models.scorer import AXES
from reward.classifier import Classifier, label_scores
from reward.ensemble import Replies, RewardModel

SCORE = ("score",)


class Member:
    """One reward model: helpful, honest, harmless where it scores these, else one `score`.

    label: which of several things that it scores is meant. policy: digest of the policy's tokenizer. option: where the
    model is named, for errors.
    """

    def __init__(self, model: RewardModel | Classifier, label: str | None, policy: str, option: str) -> None:
        self.model, self.label = model, label
        self.shares_ids = isinstance(model, RewardModel) and tokenizer_digest(model.tokenizer) == policy
        if label is None and model.axes != AXES and len(model.axes) > 1:
            raise ConfigError(f"{option}: scores {', '.join(model.axes)}; say which of them with {option}.label=...")
        if label is not None and label not in model.axes:
            raise ConfigError(f"{option}.label={label}: expected one of {', '.join(model.axes)}")
        self.axes = AXES if label is None and model.axes == AXES else SCORE

    @property
    def manner(self) -> str:
        """How it reads responses, in words."""
        if self.shares_ids:
            return "reads the policy's own tokens"
        if isinstance(self.model, RewardModel):
            return "has another tokenizer or template than the policy: texts are tokenised again"
        return "has no chat template: reads texts, " + ("prompt and reply" if self.model.reads == "pair" else "replies")

    def __call__(self, trees: Sequence[Tree], asked: Sequence[Replies]) -> Tensor:
        """Scores of every response, (R, A). trees: in the policy's ids; asked: the same as texts."""
        scores = self.model.read(trees) if self.shares_ids else self.model.of_texts(asked)
        if self.label is None:
            return scores
        return label_scores(scores, self.model.model.config, self.model.axes.index(self.label))
