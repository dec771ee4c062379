"""A model under test: how it is asked, what it answers, and how likely it finds text.

A model without a chat template (a base model) is asked in plain text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.chat import ChatFormat, Prompt
from models.errors import ConfigError
from models.generation import Sample, end_tokens, sample
from models.layout import Tree, collate
from models.loading import max_positions
from models.logprobs import per_response, token_logprobs

BATCH_ROWS, BATCH_TOKENS = 64, 8192  # of one forward, whichever is reached first

Loss = tuple[float, int]
"""Of a text: summed negative log-likelihood in nats, and tokens."""


@dataclass(frozen=True)
class Response:
    """What a model answered to one prompt."""

    prompt_ids: list[int]
    ids: list[int]
    text: str
    ended: bool  # it closed its turn, or ended its text, by itself

    @property
    def tree(self) -> Tree:
        return Tree.of(self.prompt_ids, [self.ids])


class Subject:
    """A model and its tokenizer, asked through its chat template where it has one."""

    def __init__(
        self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, max_new_tokens: int
    ) -> None:
        self.name, self.model, self.tokenizer, self.max_new_tokens = name, model.eval(), tokenizer, max_new_tokens
        self.chat = ChatFormat(tokenizer) if tokenizer.chat_template is not None else None
        self.ends = end_tokens(model, tokenizer, self.chat)
        self.positions = max_positions(model)
        self.room = self.positions - max_new_tokens  # tokens that a prompt may have
        if self.room < 1:
            raise ConfigError(f"max_new_tokens={max_new_tokens}: expected fewer than the {self.positions} of {name}")

    def respond(
        self, prompts: Sequence[Prompt], *, temperature: float, generator: torch.Generator | None = None
    ) -> list[Response]:
        """One response a prompt, greedy at temperature 0. Of a prompt that leaves no room, the beginning is cut."""
        ids = [self.prompt_ids(prompt)[-self.room :] for prompt in prompts]
        samples = sample(
            self.model,
            ids,
            max_new_tokens=self.max_new_tokens,
            ends=self.ends,
            temperature=temperature,
            generator=generator,
        )
        return [self._response(p, s) for p, s in zip(ids, samples, strict=True)]

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """The prompt as this model is asked it: its template, or plain text with a line a turn."""
        if self.chat is not None:
            return self.chat.prompt(prompt)
        text = "\n".join(message.content for message in prompt) + "\n"
        start = [self.tokenizer.bos_token_id] if self.tokenizer.bos_token_id is not None else []
        return start + self.tokenizer(text, add_special_tokens=False).input_ids

    def fits(self, prompt: Prompt) -> bool:
        """Whether the prompt leaves room for an answer."""
        return len(self.prompt_ids(prompt)) <= self.room

    def logprobs(self, responses: Sequence[Response]) -> Tensor:
        """Summed log-probability of each response's tokens at temperature 1, (n,)."""
        return self._logprobs([response.tree for response in responses])

    def answer_nll(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Loss]:
        """The loss of each answer as this model's reply to the prompt, the end of its turn included."""
        return self._nll([(self.prompt_ids(p), self._answer_ids(a)) for p, a in zip(prompts, answers, strict=True)])

    def document_nll(self, texts: Sequence[str]) -> list[Loss]:
        """The loss of each document, its end included."""
        start = self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.tokenizer.eos_token_id
        return self._nll([([start], self._plain_ids(text)) for text in texts])

    def _nll(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[Loss]:
        """The loss of each text after its start, both as ids."""
        cut = [windows(start, ids, self.positions) for start, ids in rows]
        sums = iter(self._logprobs([tree for trees in cut for tree in trees]).tolist())
        return [(-sum(next(sums) for _ in trees), len(ids)) for trees, (_, ids) in zip(cut, rows, strict=True)]

    @torch.no_grad()
    def _logprobs(self, trees: Sequence[Tree]) -> Tensor:
        found = []
        for rows in batches(trees):
            batch = {k: v.to(self.model.device) for k, v in collate(rows, bin_tokens=128).items()}
            found.append(per_response(token_logprobs(self.model, batch).logprobs, batch).cpu())
        return torch.cat(found)

    def _answer_ids(self, text: str) -> list[int]:
        return self.chat.response(text) if self.chat is not None else self._plain_ids(text)

    def _plain_ids(self, text: str) -> list[int]:
        return [*self.tokenizer(text, add_special_tokens=False).input_ids, self.tokenizer.eos_token_id]

    def _response(self, prompt_ids: list[int], found: Sample) -> Response:
        if self.chat is not None:
            return Response(prompt_ids, found.ids, self.chat.text(found.ids), found.ended)
        text = self.tokenizer.decode(found.ids, skip_special_tokens=True).strip()
        return Response(prompt_ids, found.ids, text, found.ended)


def windows(start: list[int], ids: list[int], positions: int) -> list[Tree]:
    """Trees of at most so many tokens whose targets are `ids`, each once and in order, as they follow `start`.

    What does not fit at once is cut; each part sees as much of what stands before it as fits, half a window at least.
    """
    whole, done, found = start + ids, len(start), []
    while done < len(whole):
        context = max(positions // 2, positions - (len(whole) - done))
        before = whole[max(0, done - context) : done]
        part = whole[done : done + positions - len(before)]
        found.append(Tree.of(before, [part]))
        done += len(part)
    return found


def batches(trees: Sequence[Tree]) -> Iterator[list[Tree]]:
    """The trees in their order, as many at a time as one forward takes."""
    rows: list[Tree] = []
    for tree in trees:
        if rows and (len(rows) == BATCH_ROWS or sum(t.n_tokens for t in [*rows, tree]) > BATCH_TOKENS):
            yield rows
            rows = []
        rows.append(tree)
    if rows:
        yield rows
