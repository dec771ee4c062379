"""The one batch layout: prompt trees, packed.

A row is one prompt followed by its K responses in one sequence; each response continues the prompt and sees nothing of
its siblings. Rows are packed block-diagonally into bins.

B = bins, T = positions in a bin, N = target tokens, R = responses of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from models.errors import ConfigError

Batch = dict[str, Tensor]

FULL = 1.1  # positions for each token up to which bins count as full
NARROW = 256  # tokens of bins that go by a mask: it costs less there than a call for each of many short trees


@dataclass
class LayoutConfig:
    """How conversations become rows."""

    max_length: int | None = None  # tokens of a prompt with one response; None: what the model's positions hold
    bin_tokens: int = 128  # rows are packed into bins of this many tokens (or the longest row)
    tree: bool = True  # False: every response in a row of its own, with its own copy of the prompt
    long_prompt: str = "cut"  # a prompt over half of max_length: cut its beginning, or drop the row

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 8:
            raise ConfigError(f"layout.max_length={self.max_length}: expected at least 8 tokens, or null")
        if self.bin_tokens < 8:
            raise ConfigError(f"layout.bin_tokens={self.bin_tokens}: expected at least 8")
        if self.long_prompt not in ("cut", "drop"):
            raise ConfigError(f"layout.long_prompt={self.long_prompt}: expected cut or drop")


class Tree(NamedTuple):
    """One prompt and its responses as ids. `targets[k][i]`: whether token i of response k is learnt or scored."""

    prompt: list[int]
    responses: list[list[int]]
    targets: list[list[bool]]

    @classmethod
    def of(cls, prompt: list[int], responses: Sequence[list[int]]) -> Tree:
        """A tree in which every response token is a target."""
        return cls(prompt, list(responses), [[True] * len(r) for r in responses])

    @property
    def n_tokens(self) -> int:
        return len(self.prompt) + sum(map(len, self.responses))

    @property
    def n_targets(self) -> int:
        return sum(map(sum, self.targets))


def fit(tree: Tree, max_length: int, long_prompt: str = "cut") -> Tree | None:
    """The tree within `max_length` tokens a prompt-and-response: prompts lose their beginning, responses their end.

    None where the policy drops the row, or where a response keeps no target. A cut response gets no invented end.
    """
    longest = max(map(len, tree.responses))
    room = max(max_length - longest, max_length // 2)
    prompt = tree.prompt
    if len(prompt) > room:
        if long_prompt == "drop":
            return None
        prompt = prompt[-room:]
    keep = max_length - len(prompt)
    cut = Tree(prompt, [r[:keep] for r in tree.responses], [t[:keep] for t in tree.targets])
    return cut if all(map(any, cut.targets)) else None


def separate(tree: Tree) -> list[Tree]:
    """The same responses, each with a copy of the prompt: what the packed tree must equal."""
    return [Tree(tree.prompt, [r], [t]) for r, t in zip(tree.responses, tree.targets, strict=True)]


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of rows for each bin, best-fit decreasing; a row over the capacity gets a bin of its own."""
    bins: list[list[int]] = []
    space: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [(room, b) for b, room in enumerate(space) if room >= lengths[index]]
        if fitting:
            _, chosen = min(fitting)
            bins[chosen].append(index)
            space[chosen] -= lengths[index]
        else:
            bins.append([index])
            space.append(capacity - lengths[index])
    return bins


def packed(lengths: Sequence[int], bin_tokens: int) -> tuple[list[list[int]], int]:
    """Indices of rows for each bin, and the bins' width: at most `bin_tokens`, or the longest row.

    Narrow bins are computed with their padding, which a single bin of two rows among bins of one doubles: where much is
    padding, of the widths that hold the longest row a few times the one with the fewest positions is taken.
    """
    longest, n_tokens = max(lengths), sum(lengths)
    widest = max(bin_tokens, longest)

    def at(capacity: int) -> tuple[list[list[int]], int]:
        bins = pack(lengths, capacity)
        return bins, max(sum(lengths[i] for i in rows) for rows in bins)

    def positions(found: tuple[list[list[int]], int]) -> int:
        return len(found[0]) * found[1]

    found = at(widest)
    if widest > NARROW or positions(found) <= FULL * n_tokens:
        return found
    return min([found, *map(at, range(longest, widest, longest))], key=positions)


def within(limit: int, sizes: Sequence[int]) -> Iterator[list[int]]:
    """Indices in parts, by size, of at most `limit` in sum, or of one."""
    rows: list[int] = []
    total = 0
    for i in sorted(range(len(sizes)), key=lambda i: sizes[i]):
        if rows and total + sizes[i] > limit:
            yield rows
            rows, total = [], 0
        rows.append(i)
        total += sizes[i]
    if rows:
        yield rows


def collate(trees: Sequence[Tree], *, bin_tokens: int, pad_id: int = 0) -> Batch:
    """Pack trees into a batch of plain tensors.

    input_ids, position_ids, segment, branch: (B, T) long. `segment` numbers the trees of a bin from 1, 0 is padding;
        `branch` is 0 on the prompt and k on response k.
    source: (N,) flat index into B·T of the position that predicts each target; target: (N,) its id.
    response: (N,) which response each target belongs to, in the order of `trees`, responses in order within each.
    ends: (R,) flat index of each response's last token; tree: (R,) which tree it belongs to.
    """
    bins, width = packed([tree.n_tokens for tree in trees], bin_tokens)
    first_response = [0]
    for tree in trees:
        first_response.append(first_response[-1] + len(tree.responses))
    planes = torch.zeros(4, len(bins), width, dtype=torch.long)
    planes[0] = pad_id
    parts = _Parts([], [], [], [0] * first_response[-1], [0] * first_response[-1])
    for b, rows in enumerate(bins):
        offset = 0
        for number, i in enumerate(rows, start=1):
            columns = _lay_out(trees[i], number, b * width + offset, first_response[i], i, parts)
            planes[:, b, offset : offset + trees[i].n_tokens] = torch.tensor(columns)
            offset += trees[i].n_tokens
    order = sorted(range(len(parts.response)), key=parts.response.__getitem__)
    return {
        "input_ids": planes[0],
        "position_ids": planes[1],
        "segment": planes[2],
        "branch": planes[3],
        "source": torch.tensor(parts.source, dtype=torch.long)[order],
        "target": torch.tensor(parts.target, dtype=torch.long)[order],
        "response": torch.tensor(parts.response, dtype=torch.long)[order],
        "ends": torch.tensor(parts.ends, dtype=torch.long),
        "tree": torch.tensor(parts.tree, dtype=torch.long),
    }


def collate_rankings(trees: Sequence[Tree], layout: LayoutConfig) -> Batch:
    """`collate` as the layout says, with `tree` of each response as given even where responses are laid out apart."""
    laid = trees if layout.tree else [row for tree in trees for row in separate(tree)]
    n_responses = torch.tensor([len(tree.responses) for tree in trees])
    tree = torch.repeat_interleave(torch.arange(len(trees)), n_responses)
    return {**collate(laid, bin_tokens=layout.bin_tokens), "tree": tree}


class _Parts(NamedTuple):
    source: list[int]
    target: list[int]
    response: list[int]
    ends: list[int]
    tree: list[int]


def _lay_out(tree: Tree, number: int, start: int, first: int, index: int, parts: _Parts) -> list[list[int]]:
    """Columns (ids, positions, segment, branch) of one tree whose first token stands at flat index `start`."""
    n = len(tree.prompt)
    ids, positions, branch = list(tree.prompt), list(range(n)), [0] * n
    for k, (response, targets) in enumerate(zip(tree.responses, tree.targets, strict=True)):
        begin = start + len(ids)
        for i, wanted in enumerate(targets):
            before = begin + i - 1 if i else start + n - 1
            if wanted and (i or n):  # the first token of an empty prompt has nothing before it to predict it
                parts.source.append(before)
                parts.target.append(response[i])
                parts.response.append(first + k)
        parts.ends[first + k] = begin + len(response) - 1
        parts.tree[first + k] = index
        ids += response
        positions += range(n, n + len(response))
        branch += [k + 1] * len(response)
    return [ids, positions, [number] * len(ids), branch]


def attention_mask(batch: Batch) -> Tensor:
    """(B, 1, T, T) bool, True where position i may see position j."""
    return visible(batch["segment"], batch["branch"])[:, None]


def visible(segment: Tensor, branch: Tensor) -> Tensor:
    """segment, branch: (B, T). (B, T, T) bool: causal, own tree, prompt or own branch."""
    length = segment.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segment.device).tril()
    same_tree = segment[:, :, None] == segment[:, None, :]
    own = (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    return causal & same_tree & own
