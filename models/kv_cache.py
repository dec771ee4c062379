"""Caches of keys and values for sampling, from which finished rows leave and into which new ones join.

All rows end at the same column, so that one step of decoding is one column, and a row of L tokens stands in the last L.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

ROOM = 256  # columns beyond the prompts that are made at first; more come as responses reach them


def empty_cache(config: PretrainedConfig, slots: int, longest: int, max_new_tokens: int) -> SlotCache | GrowingCache:
    """For at most `slots` rows. A model whose layers want caches of their own kind gets these, which none can join."""
    layers = DynamicCache(config=config).layers
    kinds = getattr(config.get_text_config(decoder=True), "layer_types", None) or ()
    if "chunked_attention" in kinds or any(type(x) not in (DynamicLayer, DynamicSlidingWindowLayer) for x in layers):
        return GrowingCache()
    columns = longest + min(max_new_tokens, ROOM)
    return SlotCache([SlotLayer(slots, columns, getattr(x, "sliding_window", None)) for x in layers])


class GrowingCache(DynamicCache):
    """Transformers' own, which copies everything with every token."""

    can_be_joined = False

    def join(self, prefilled: DynamicCache, sources: Tensor) -> None:
        """Begin with the rows `sources` of a cache of prompts."""
        self.layers, self.layer_class_to_replicate = prefilled.layers, prefilled.layer_class_to_replicate
        self.batch_select_indices(sources)

    def select(self, order: list[int]) -> None:
        """Row i becomes what row order[i] was; the rest is forgotten."""
        self.batch_select_indices(torch.tensor(order, dtype=torch.long, device=self.layers[0].keys.device))

    def trim(self, columns: int) -> None:
        """Nothing: no row of it is read that is not needed."""


class SlotCache(Cache):
    """Buffers made once and written in place: a slot a row, a column a token."""

    can_be_joined = True

    def __init__(self, layers: list[SlotLayer]) -> None:
        super().__init__(layers=layers)

    def join(self, prefilled: DynamicCache, sources: Tensor) -> None:
        """Add the rows `sources` of a cache of prompts, which are no longer than the rows that are here."""
        columns = prefilled.get_seq_length()
        for layer, given in zip(self.layers, prefilled.layers, strict=True):
            layer.join(given.keys[sources], given.values[sources], columns)

    def select(self, order: list[int]) -> None:
        """Row i becomes what row order[i] was; the rest is forgotten. Copies no row that stays where it is."""
        for layer in self.layers:
            layer.select(order)

    def trim(self, columns: int) -> None:
        """Forget all but the last columns."""
        for layer in self.layers:
            layer.first = layer.end - columns


class SlotLayer(CacheLayerMixin):
    """Keys and values (slots, heads, columns, d) of one layer, in use in the first `rows` and from `first` to `end`.

    What a slot holds before its row's first token is finite and masked.
    """

    def __init__(self, slots: int, columns: int, window: int | None) -> None:
        super().__init__()
        self.slots, self.columns, self.window, self.is_sliding = slots, columns, window, window is not None
        self.rows = self.first = self.end = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = self._buffer(key_states), self._buffer(value_states)
        self.is_initialized = True

    def _buffer(self, like: Tensor) -> Tensor:
        return like.new_zeros(self.slots, like.shape[1], self.columns, like.shape[3])

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        new = key_states.shape[-2]
        self._make_room(new)
        here = slice(self.end, self.end + new)
        self.keys[: self.rows, :, here] = key_states
        self.values[: self.rows, :, here] = value_states
        seen = slice(self._first_seen(new), self.end + new)
        self.end += new
        return self.keys[: self.rows, :, seen], self.values[: self.rows, :, seen]

    def join(self, keys: Tensor, values: Tensor, columns: int) -> None:
        """Add rows of so many columns, of which a sliding layer gives the last alone."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        if self.rows == 0:
            self.first, self.end = 0, 0
            self._make_room(columns)
            self.end = columns
        rows, here = slice(self.rows, self.rows + len(keys)), slice(self.end - keys.shape[2], self.end)
        self.keys[rows, :, here], self.values[rows, :, here] = keys, values
        self.rows += len(keys)

    def select(self, order: list[int]) -> None:
        used = slice(self.first, self.end)
        for buffer in (self.keys, self.values):
            for to, source in enumerate(order):
                if to != source:
                    buffer[to, :, used] = buffer[source, :, used]
        self.rows = len(order)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        seen = self._first_seen(query_length)
        return self.end + query_length - seen, seen - self.first

    def get_seq_length(self) -> int:
        return self.end - self.first

    def get_max_length(self) -> int:
        return -1

    def _first_seen(self, new: int) -> int:
        """The first column that any of the new tokens after `end` may see."""
        return self.first if self.window is None else max(self.first, self.end + 1 - self.window)

    def _make_room(self, new: int) -> None:
        """For new columns: where the buffer is full, move its used half to the front, or make a larger one."""
        used = self.end - self.first
        if self.end + new <= self.columns:
            return
        keys, values = self.keys[:, :, self.first : self.end], self.values[:, :, self.first : self.end]
        if self.columns < 2 * (used + new):
            self.columns = 2 * (used + new)
            self.keys, self.values = self._buffer(keys), self._buffer(values)
        self.keys[: self.rows, :, :used], self.values[: self.rows, :, :used] = keys[: self.rows], values[: self.rows]
        self.first, self.end = 0, used
