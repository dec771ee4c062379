"""The three-axis reward model: a backbone, and a head that reads each response's last token.

Larger is better on every axis, harmless included. R = responses of a batch, A = axes of the model: ours has three, a
scalar reward model made elsewhere is read as one of one axis.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from models.attention import BY_TREE
from models.chat import ChatFormat
from models.errors import ArtifactError
from models.layout import Batch, LayoutConfig, Tree, collate, within
from models.logprobs import hidden_states

AXES = ("helpful", "honest", "harmless")


@dataclass
class AxisWeights:
    """What each axis counts where one number is made of all."""

    helpful: float = 1.0
    honest: float = 1.0
    harmless: float = 1.0


def reward_model_from(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, generator: torch.Generator
) -> PreTrainedModel:
    """An `AutoModelForSequenceClassification` with the policy's backbone and a fresh head, Normal(0, 1/√(hidden+1))."""
    config = type(policy.config).from_dict(policy.config.to_dict())
    config.num_labels = len(AXES)
    config.id2label = dict(enumerate(AXES))
    config.label2id = {axis: i for i, axis in enumerate(AXES)}
    config.pad_token_id = pad_apart_from_end(tokenizer)
    config.reward_mean, config.reward_std = [0.0] * len(AXES), [1.0] * len(AXES)
    model = scorer_on(policy, config)
    with torch.no_grad():
        weight = torch.randn(model.score.weight.shape, generator=generator)
        model.score.weight.copy_(weight / (weight.shape[1] + 1) ** 0.5)
    return model


def scorer_on(policy: PreTrainedModel, config: PretrainedConfig) -> PreTrainedModel:
    """A sequence classifier on a copy of the policy's backbone, with an adapter that the policy has; its head is yet to
    be filled."""
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config, attn_implementation=BY_TREE)
    setattr(model, model.base_model_prefix, copy.deepcopy(policy.base_model))
    model.base_model.config = model.config
    model.score.to_empty(device=policy.device).to(policy.dtype)
    for name in ("adapter", "peft_config"):
        if hasattr(policy, name):
            setattr(model, name, copy.deepcopy(getattr(policy, name)))
    return model


def pad_apart_from_end(tokenizer: PreTrainedTokenizerBase) -> int:
    """Give the tokenizer a padding token that ends no turn, and return its id.

    Plain transformers reads a score at the last token that is not padding: were that the end of turn, it would read
    the token before it. Raises ArtifactError where the end of turn is the only special token.
    """
    end = ChatFormat(tokenizer).end_ids[-1]
    choices = [tokenizer.pad_token_id, tokenizer.eos_token_id, *tokenizer.all_special_ids]
    pad = next((token for token in choices if token not in (None, end)), None)
    if pad is None:
        raise ArtifactError(
            "the tokenizer's only special token ends the turn, so plain transformers could not tell it from padding; "
            "add a padding token to the tokenizer and its embeddings"
        )
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    return pad


def axes_of(config: PretrainedConfig) -> tuple[str, ...]:
    """What a reward model's scores are called; the single one of a model that names none is `score`."""
    names = tuple(config.id2label[i] for i in range(config.num_labels))
    return ("score",) if names == ("LABEL_0",) else names


def raw_scores(model: nn.Module, batch: Batch) -> Tensor:
    """Head outputs at the last token of each response, (R, A) float32, before normalisation."""
    inner = model.module if hasattr(model, "module") else model
    return inner.score(hidden_states(model, batch, batch["ends"])).float()


def normalised(model: PreTrainedModel, scores: Tensor) -> Tensor:
    """Raw scores (..., A) in units of the reference completions' standard deviation, their mean at 0; as they are where
    the model's config names no such statistics."""
    mean, std = getattr(model.config, "reward_mean", 0.0), getattr(model.config, "reward_std", 1.0)
    return (scores - scores.new_tensor(mean)) / scores.new_tensor(std)


def without_length(model: PreTrainedModel, scores: Tensor, lengths: Tensor) -> Tensor:
    """Raw scores (R, 3) less what the lengths (R,) of the responses alone explain, where the model's config says how
    much that is: `reward_length_slope` for each token beyond `reward_length_mean`."""
    slope = getattr(model.config, "reward_length_slope", None)
    if slope is None:
        return scores
    return scores - (lengths.to(scores) - model.config.reward_length_mean)[:, None] * scores.new_tensor(slope)


@torch.no_grad()
def score_trees(
    model: PreTrainedModel, trees: Sequence[Tree], layout: LayoutConfig, batch_tokens: int = 8192
) -> Tensor:
    """Normalised scores of every response of every tree, (responses in order, A), on the CPU. At most `batch_tokens`
    tokens, or one tree, are read at once."""
    model.eval()
    found: dict[int, Tensor] = {}
    for rows in within(batch_tokens, [tree.n_tokens for tree in trees]):
        batch = collate([trees[i] for i in rows], bin_tokens=layout.bin_tokens)
        batch = {name: value.to(model.device) for name, value in batch.items()}
        lengths = torch.tensor([len(response) for i in rows for response in trees[i].responses])
        scores = normalised(model, without_length(model, raw_scores(model, batch).cpu(), lengths))
        found.update(zip(rows, scores.split([len(trees[i].responses) for i in rows]), strict=True))
    return torch.cat([found[i] for i in range(len(trees))]) if trees else torch.zeros(0, model.config.num_labels)
