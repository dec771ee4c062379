"""A model under test: how it is asked, what it answers, and how likely it finds text.

A model without a chat template (a base model) is asked in plain text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.chat import ChatFormat, Prompt
from models.generation import Sample, end_tokens, sample
from models.layout import Tree, collate
from models.logprobs import per_response, token_logprobs


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

    def respond(
        self, prompts: Sequence[Prompt], *, temperature: float, generator: torch.Generator | None = None
    ) -> list[Response]:
        """One response a prompt, greedy at temperature 0."""
        ids = [self.prompt_ids(prompt) for prompt in prompts]
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

    @torch.no_grad()
    def logprobs(self, responses: Sequence[Response], batch_size: int = 64) -> Tensor:
        """Summed log-probability of each response's tokens at temperature 1, (n,)."""
        found = []
        for start in range(0, len(responses), batch_size):
            trees = [response.tree for response in responses[start : start + batch_size]]
            batch = {k: v.to(self.model.device) for k, v in collate(trees, bin_tokens=128).items()}
            found.append(per_response(token_logprobs(self.model, batch).logprobs, batch).cpu())
        return torch.cat(found)

    def document_nll(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """(summed negative log-likelihood, tokens) of each document, its end included."""
        start = self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.tokenizer.eos_token_id
        encoded = [self.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
        trees = [Response([start], [*ids, self.tokenizer.eos_token_id], "", True) for ids in encoded]
        return [(-float(x), len(t.ids)) for x, t in zip(self.logprobs(trees), trees, strict=True)]

    def _response(self, prompt_ids: list[int], found: Sample) -> Response:
        if self.chat is not None:
            return Response(prompt_ids, found.ids, self.chat.text(found.ids), found.ended)
        text = self.tokenizer.decode(found.ids, skip_special_tokens=True).strip()
        return Response(prompt_ids, found.ids, text, found.ended)
