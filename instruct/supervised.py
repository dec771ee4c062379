"""Supervised learning of text: conversations (the assistant's turns are targets) and plain documents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from models.chat import ChatFormat, Prompt
from models.errors import DataError
from models.layout import Batch, LayoutConfig, Tree, collate, fit
from models.logprobs import token_logprobs
from models.objective import Mean, Metrics


class SupervisedRows:
    """Trees whose targets are learnt. `n_dropped` rows kept no target within `max_length`."""

    def __init__(self, trees: Sequence[Tree], layout: LayoutConfig, max_length: int) -> None:
        fitted = [fit(tree, max_length, layout.long_prompt) for tree in trees]
        self.trees = [tree for tree in fitted if tree is not None]
        self.n_dropped = len(fitted) - len(self.trees)
        if not self.trees:
            raise DataError(
                f"none of {len(fitted)} rows keeps a target within {max_length} tokens; raise layout.max_length"
            )
        self.bin_tokens = layout.bin_tokens

    def __len__(self) -> int:
        return len(self.trees)

    def collate(self, indices: Sequence[int]) -> Batch:
        batch = collate([self.trees[i] for i in indices], bin_tokens=self.bin_tokens)
        return {**batch, "units": torch.tensor([float(len(batch["target"]))])}


def conversation_tree(messages: Prompt, chat: ChatFormat) -> Tree:
    """A conversation as a tree of one branch: all before the first reply is the prompt."""
    ids, targets = chat.conversation(messages)
    first = targets.index(True)
    return Tree(ids[:first], [ids[first:]], [targets[first:]])


def document_trees(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[Tree]:
    """Documents: after the beginning token (or the end token) every token is a target, the end too."""
    if not texts:
        return []
    end = tokenizer.eos_token_id
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else end
    return [Tree.of([start], [[*ids, end]]) for ids in tokenizer(list(texts), add_special_tokens=False).input_ids]


def supervised(model: nn.Module, batch: Batch, units: Tensor) -> tuple[Tensor, Metrics]:
    """Mean negative log-likelihood of the targets of the whole step. units: (1,) targets."""
    total = -token_logprobs(model, batch).logprobs.sum()
    return total / units[0], {"nll": Mean(total.detach(), batch["units"][0])}
