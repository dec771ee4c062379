"""A sequence classifier of any kind, and one label of it, as a source of reward.

R = responses, L = labels of the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from models.chat import Prompt
from models.loading import max_positions
from models.scorer import axes_of
from reward.ensemble import Replies

READS = ("reply", "pair")


class Classifier:
    """A classifier without a chat template: it reads plain text, a reply alone or after its prompt.

    What exceeds its positions is cut at the end, of a pair that of the longer text first.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, reads: str, batch_size: int = 32
    ) -> None:
        self.model, self.tokenizer, self.reads, self.batch_size = model, tokenizer, reads, batch_size
        self.axes = axes_of(model.config)
        self.room = min(tokenizer.model_max_length, max_positions(model))
        self.nothing = "" if tokenizer("").input_ids else tokenizer.pad_token  # a text without tokens cannot be read

    @torch.no_grad()
    def of_texts(self, asked: Sequence[Replies]) -> Tensor:
        """What the head says of every reply, (R, L), on the CPU."""
        texts = [(text or self.nothing, replies.prompt) for replies in asked for text in replies.texts]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i][0]))
        found: dict[int, Tensor] = {}
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            found.update(zip(rows, self._logits([texts[i] for i in rows]), strict=True))
        return torch.stack([found[i] for i in range(len(texts))]) if texts else torch.zeros(0, len(self.axes))

    def _logits(self, texts: Sequence[tuple[str, Prompt]]) -> Tensor:
        replies = [text for text, _ in texts]
        prompts = ["\n\n".join(turn.content for turn in prompt) for _, prompt in texts]
        read = self.tokenizer(
            *((prompts, replies) if self.reads == "pair" else (replies,)),
            padding=True,
            truncation=True,
            max_length=self.room,
            return_tensors="pt",
        )
        return self.model(**read.to(self.model.device)).logits.float().cpu()


def label_scores(scores: Tensor, config: PretrainedConfig, column: int) -> Tensor:
    """What a head's outputs (R, L) say of one label, (R, 1): its log-probability, as the config's `problem_type` has it
    (one label is right where it names none); the output itself of a regression and of a reward model."""
    if config.problem_type == "regression" or config.num_labels == 1 or hasattr(config, "reward_mean"):
        found = scores
    elif config.problem_type == "multi_label_classification":
        found = logsigmoid(scores)
    else:
        found = scores.log_softmax(-1)
    return found[:, [column]]
