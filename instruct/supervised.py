"""Supervised learning of text: conversations (the assistant's turns are targets) and plain documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from models.chat import ChatFormat, Prompt
from models.errors import DataError
from models.layout import Batch, LayoutConfig, Tree, collate, fit
from models.logprobs import token_logprobs
from models.objective import Mean, Metrics, Objective


class SupervisedRows:
    """Trees whose targets are learnt. `n_dropped` rows kept no target within `max_length`, `n_cut` lost a part.

    sources: the name of each tree's source, for a loss of each; without names there is one source.
    """

    def __init__(
        self, trees: Sequence[Tree], layout: LayoutConfig, max_length: int, sources: Sequence[str] | None = None
    ) -> None:
        fitted = [fit(tree, max_length, layout.long_prompt) for tree in trees]
        self.trees = [tree for tree in fitted if tree is not None]
        named = zip(fitted, sources or [""] * len(fitted), strict=True)
        self.sources = [name for tree, name in named if tree is not None]
        self.names = list(dict.fromkeys(self.sources))
        self.n_rows, self.n_dropped = len(self.trees), len(fitted) - len(self.trees)
        self.n_cut = sum(a is not None and a.n_tokens < b.n_tokens for a, b in zip(fitted, trees, strict=True))
        if not self.trees:
            raise DataError(
                f"none of {len(fitted)} rows keeps a target within {max_length} tokens; raise layout.max_length"
            )
        self.bin_tokens = layout.bin_tokens

    def __len__(self) -> int:
        return len(self.trees)

    def collate(self, indices: Sequence[int]) -> Batch:
        batch = with_units([self.trees[i] for i in indices], self.bin_tokens)
        if len(self.names) > 1:
            batch["data_source"] = torch.tensor([self.names.index(self.sources[i]) for i in indices])
        return batch


class StreamedRows:
    """Conversations of a stream as trees, one pass at a time. `n_dropped` rows of the passes so far had no target."""

    names = ("",)

    def __init__(
        self, conversations: Callable[[], Iterator[Prompt]], chat: ChatFormat, layout: LayoutConfig, max_length: int
    ) -> None:
        self.conversations, self.chat, self.layout, self.max_length = conversations, chat, layout, max_length
        self.n_rows = self.n_dropped = self.n_cut = 0

    def one_pass(self) -> Iterator[Tree]:
        """The trees that keep a target within `max_length`."""
        for messages in self.conversations():
            whole = conversation_tree(messages, self.chat)
            tree = fit(whole, self.max_length, self.layout.long_prompt)
            if tree is None:
                self.n_dropped += 1
                continue
            self.n_rows += 1
            self.n_cut += tree.n_tokens < whole.n_tokens
            yield tree

    def collate(self, trees: Sequence[Tree]) -> Batch:
        return with_units(trees, self.layout.bin_tokens)


def with_units(trees: Sequence[Tree], bin_tokens: int) -> Batch:
    """A packed batch, and the number of its targets."""
    batch = collate(trees, bin_tokens=bin_tokens)
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
    return mean_nll(token_logprobs(model, batch).logprobs, batch, units)


def mean_nll(logprobs: Tensor, batch: Batch, units: Tensor) -> tuple[Tensor, Metrics]:
    """The loss of the targets' log-probabilities; exactly 0, with a graph, where the step has no target."""
    total = -logprobs.sum()
    return total / units[0].clamp(min=1), {"nll": Mean(total.detach(), batch["units"][0])}


def supervised_by_source(names: Sequence[str]) -> Objective:
    """`supervised`, with the loss of each source beside it where there are several: `nll/<name>`."""
    if len(names) < 2:
        return supervised

    def objective(model: nn.Module, batch: Batch, units: Tensor) -> tuple[Tensor, Metrics]:
        logprobs = token_logprobs(model, batch).logprobs
        loss, metrics = mean_nll(logprobs, batch, units)
        of = batch["data_source"][batch["response"]]  # each row has one response
        for number, name in enumerate(names):
            own = of == number
            metrics[f"nll/{name}"] = Mean(-logprobs.detach()[own].sum(), own.sum())
        return loss, metrics

    return objective
