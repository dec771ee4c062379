"""Sampling from a policy: a prompt is computed once, finished rows leave the batch, and those that wait join it."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache, DynamicCache

from models.chat import ChatFormat
from models.kv_cache import GrowingCache, SlotCache, empty_cache
from models.packed_linear import packed_linear
from models.partitioned import is_partitioned

REFILL = 8  # waiting prompts join once a slot in so many is free: a forward for each of them alone would cost more


class Sample(NamedTuple):
    """A generated response: its ids (the end token included, where there is one), and whether it ended by itself.

    logprobs: of each id under the softmax that it was drawn from, at the temperature; 0 where the choice was greedy.
    """

    ids: list[int]
    ended: bool
    logprobs: list[float]


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, chat: ChatFormat | None = None) -> set[int]:
    """Every token that ends a response: end of turn, the tokenizer's end of text, the generation config's ends."""
    ends = model.generation_config.eos_token_id if model.generation_config is not None else None
    listed = ends if isinstance(ends, list) else [ends]
    closing = chat.end_ids[-1:] if chat is not None else []
    return {int(token) for token in [*listed, tokenizer.eos_token_id, *closing] if token is not None}


def sample(  # noqa: PLR0913  all but two by name
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    *,
    n: int = 1,
    max_new_tokens: int,
    ends: Collection[int],
    temperature: float,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    batch_size: int = 128,
) -> list[Sample]:
    """`n` responses a prompt, those of a prompt one after the other; greedy where `temperature` is 0.

    Each response has its own stream of uniform numbers, by its place in the list (or of its prompt's own generator)
    and drawn before anything is generated, so neither batch size nor the prompts beside it change a response (up to
    rounding of the logits).
    """
    if not prompts:
        return []
    was_training = model.training
    model.eval()
    uniforms = _uniforms(len(prompts), n, max_new_tokens, generator)
    rows = [prompt for prompt in prompts for _ in range(n)]
    decoding = _Decoding(model, rows, frozenset(ends), temperature, uniforms, max_new_tokens, batch_size)
    with packed_linear(model, decoding.slots, max_new_tokens), _without_graph(model):
        decoding.run()
    model.train(was_training)
    return [Sample(*row) for row in zip(decoding.responses, decoding.ended, decoding.logprobs, strict=True)]


def _without_graph(model: PreTrainedModel) -> torch.no_grad | torch.inference_mode:
    """Inference mode, where no layer keeps tensors from one forward to the next, as quantised and partitioned ones do:
    those would be of no use to training."""
    plain = all(p.is_floating_point() and not is_partitioned(p) for p in model.parameters())
    return torch.inference_mode() if plain else torch.no_grad()


def _uniforms(
    n_prompts: int, n: int, n_steps: int, generator: torch.Generator | Sequence[torch.Generator] | None
) -> Tensor:
    if isinstance(generator, Sequence):
        return torch.stack([torch.rand(n, n_steps, generator=own) for own in generator]).flatten(0, 1)
    return torch.rand(n_prompts * n, n_steps, generator=generator)


def draw(logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Tokens of softmax(logits / temperature) by the inverse of its distribution, and their log-probabilities.

    logits: (rows, V), uniforms: (rows,) in [0, 1). Greedy, with log-probability 0, where `temperature` is 0. A token
    of probability 0 is never drawn: the number searched for lies below the last sum, and at or above the one before.
    """
    if temperature == 0:
        tokens = logits.argmax(-1)
        return tokens, torch.zeros(tokens.shape)
    scaled = logits.float() / temperature
    scaled -= scaled.amax(-1, keepdim=True)
    weights = scaled.exp()
    sums = weights.cumsum(-1)
    tokens = torch.searchsorted(sums, uniforms[:, None] * sums[:, -1:], right=True).clamp_(max=logits.shape[-1] - 1)
    logprobs = scaled.gather(-1, tokens) - weights.sum(-1, keepdim=True).log()
    return tokens.squeeze(-1), logprobs.squeeze(-1)


class _Decoding:
    """Rows wait, longest prompt first, take part in a batch, and are done. Equal prompts that join together are
    computed once."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[list[int]],
        ends: frozenset[int],
        temperature: float,
        uniforms: Tensor,
        max_new_tokens: int,
        batch_size: int,
    ) -> None:
        self.model, self.prompts, self.ends, self.temperature = model, prompts, ends, temperature
        self.uniforms, self.max_new_tokens, self.slots = uniforms, max_new_tokens, min(batch_size, len(prompts))
        self.responses: list[list[int]] = [[] for _ in prompts]
        self.logprobs: list[list[float]] = [[] for _ in prompts]
        self.ended = [False] * len(prompts)
        self.waiting = deque(sorted(range(len(prompts)), key=lambda row: -len(prompts[row])))
        self.device = model.device
        self.cache: SlotCache | GrowingCache | None = None
        self.active: list[int] = []  # by slot
        self.pending = torch.empty(0, dtype=torch.long, device=self.device)  # by slot, the token that is not cached yet
        self.virtual = 0  # columns that the model itself puts before every prompt

    def run(self) -> None:
        while self.waiting or self.active:
            if self.waiting and self._is_time_to_join():
                self._join()
            if self.active:
                self._step()

    def _is_time_to_join(self) -> bool:
        if not self.active:
            return True
        free = self.slots - len(self.active)
        return self.cache.can_be_joined and not self.virtual and free * REFILL >= self.slots

    def _join(self) -> None:
        """Compute prompts, take the first token of each row, and let those in that go on."""
        rows = [self.waiting.popleft() for _ in range(min(self.slots - len(self.active), len(self.waiting)))]
        places: dict[tuple[int, ...], int] = {}
        sources = [places.setdefault(tuple(self.prompts[row]), len(places)) for row in rows]
        prefilled = DynamicCache(config=self.model.config)
        logits = self._prefill([list(prompt) for prompt in places], prefilled)
        tokens, going = self._choose(logits[sources], rows)
        joining = [i for i, goes_on in enumerate(going) if goes_on]
        if not joining:
            return
        if not self.active:
            self._begin(prefilled, len(max(places, key=len)))
        self.cache.join(prefilled, torch.tensor([sources[i] for i in joining], device=logits.device))
        self.pending = torch.cat([self.pending, tokens[joining]])
        self.active += [rows[i] for i in joining]
        self._fit()

    def _begin(self, prefilled: DynamicCache, longest: int) -> None:
        """Nothing is in the batch: see how many columns the model adds to its longest prompt, and have a cache."""
        columns = prefilled.get_seq_length()
        self.virtual = columns - longest
        if self.cache is None or not self.cache.can_be_joined:
            self.cache = empty_cache(self.model.config, self.slots, columns, self.max_new_tokens)

    def _step(self) -> None:
        """One more token of each row that takes part."""
        columns = self.cache.get_seq_length() - self.virtual + 1
        mask = torch.arange(columns, device=self.device) >= columns - 1 - self.lengths[:, None]
        logits = self._forward(self.pending[:, None], self.lengths[:, None], mask, self.cache)
        self.lengths = self.lengths + 1
        self.pending, going = self._choose(logits, self.active)
        if not all(going):
            self._leave(going)

    def _leave(self, going: list[bool]) -> None:
        """The last rows move into the slots that became free."""
        order = [slot for slot, goes_on in enumerate(going) if goes_on]
        movable = [slot for slot in order if slot >= len(order)]
        order = [slot if going[slot] else movable.pop() for slot in range(len(order))]
        self.cache.select(order)
        self.pending = self.pending[order]
        self.active = [self.active[slot] for slot in order]
        self._fit()

    def _fit(self) -> None:
        """Tokens of each row in the cache, which forgets the columns that no row fills."""
        lengths = [len(self.prompts[row]) + len(self.responses[row]) - 1 for row in self.active]
        self.lengths = torch.tensor(lengths, device=self.device, dtype=torch.long)
        if lengths and not self.virtual:
            self.cache.trim(max(lengths))

    def _prefill(self, prompts: list[list[int]], cache: DynamicCache) -> Tensor:
        """Left-padded, so that all end at the same column. Logits of the next token, (prompts, V)."""
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=self.device)
        lengths = torch.tensor([len(p) for p in prompts], device=self.device)
        mask = torch.arange(longest, device=self.device) >= longest - lengths[:, None]
        return self._forward(ids, (mask.cumsum(1) - 1).clamp(min=0), mask, cache)

    def _forward(self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            cache=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    def _choose(self, logits: Tensor, rows: list[int]) -> tuple[Tensor, list[bool]]:
        """The next token of each row, which is kept, and whether the row goes on after it."""
        steps = [len(self.responses[row]) for row in rows]
        uniforms = self.uniforms[rows, steps].to(self.device)
        tokens, logprobs = draw(logits, uniforms, self.temperature)
        going = []
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            self.responses[row].append(token)
            self.logprobs[row].append(logprob)
            self.ended[row] = token in self.ends
            going.append(not self.ended[row] and len(self.responses[row]) < self.max_new_tokens)
        return tokens, going
