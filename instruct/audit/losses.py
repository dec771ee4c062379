"""Losses of answers under a language model, with and without their instruction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from instruct.audit.source import Item
from models.chat import ChatFormat
from models.layout import LayoutConfig, Tree, collate, fit
from models.logprobs import per_response, response_lengths, token_logprobs

Losses = list["float | None"]  # of each item; None where nothing of the answer fits the model's positions


def answer_trees(items: Sequence[Item], chat: ChatFormat, max_length: int, *, ended: bool = False) -> list[Tree | None]:
    """Each prompt with its last reply, whose tokens are targets; ended: with the end of its turn."""
    return [_fitted(chat.prompt(item.prompt), chat.response(item.answer, ended=ended), max_length) for item in items]


def plain_trees(items: Sequence[Item], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Tree | None]:
    """The same for a base model, which knows no turns: plain text, a line a turn."""

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    start = [text_start(tokenizer)]
    asked = ("".join(f"{turn.content}\n" for turn in item.prompt) for item in items)
    return [
        _fitted(start + ids(prompt), ids(item.answer), max_length) for prompt, item in zip(asked, items, strict=True)
    ]


def text_start(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that stands before a text."""
    return tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id


def bare_trees(trees: Sequence[Tree | None], start: int) -> list[Tree | None]:
    """The same replies after nothing but a token that starts a text."""
    return [tree and Tree([start], tree.responses, tree.targets) for tree in trees]


def _fitted(prompt: list[int], reply: list[int], max_length: int) -> Tree | None:
    return fit(Tree.of(prompt, [reply]), max_length) if reply else None


@torch.no_grad()
def losses(model: nn.Module, trees: Sequence[Tree | None], layout: LayoutConfig, batch_size: int = 32) -> Losses:
    """Mean negative log-likelihood of each tree's targets."""
    model.eval()
    device = next(model.parameters()).device
    known = sorted((i for i, tree in enumerate(trees) if tree is not None), key=lambda i: trees[i].n_tokens)
    found: Losses = [None] * len(trees)
    for start in range(0, len(known), batch_size):
        rows = known[start : start + batch_size]
        batch = collate([trees[i] for i in rows], bin_tokens=layout.bin_tokens)
        batch = {name: value.to(device) for name, value in batch.items()}
        sums = per_response(token_logprobs(model, batch).logprobs, batch)
        for i, value in zip(rows, (-sums / response_lengths(batch)).tolist(), strict=True):
            found[i] = value
    return found


def difficulties(given: Losses, bare: Losses) -> Losses:
    """IFD (Li et al. 2024): the loss of the answer after its instruction over that of the answer alone.

    Near 0 the instruction all but says the answer; at 1 or more it does not help to find it.
    """
    return [a / b if a is not None and b else None for a, b in zip(given, bare, strict=True)]
