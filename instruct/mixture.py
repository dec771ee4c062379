"""Several sources of instructions as one set of rows: how many rows of each, and which.

n = records of a source or group, p = its share of all rows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from instruct.readers import InstructionData, Mixing, Part
from instruct.records import Instruction
from models.errors import ConfigError
from models.split import Split

Row = TypeVar("Row")


def mixed(data: InstructionData, read: Callable[[Part], Split[Instruction]]) -> Split[Instruction]:
    """The sources of a mixture in their order, each with its share of the training rows; held-out rows as they are."""
    if not data.sources:
        raise ConfigError(
            "data.sources is empty; name one, as in data.sources.mine.format=alpaca data.sources.mine.path=a.json"
        )
    splits = {name: read(source) for name, source in data.sources.items()}
    sizes = {name: len(split.train) for name, split in splits.items()}
    counts = allot(sizes, {name: source.weight for name, source in data.sources.items()}, data.mixing)
    train: list[Instruction] = []
    for name, split in splits.items():
        chosen = draw(split.train, counts[name], f"{data.seed} {name}")
        train += [replace(instruction, source=name) for instruction in chosen]
    held = [replace(x, source=name) for name, split in splits.items() for x in split.eval]
    return Split(train, held, tuple(reading for split in splits.values() for reading in split.readings))


def balanced(instructions: Sequence[Instruction], seed: str) -> list[Instruction]:
    """As many rows as before, in equal shares of their groups."""
    groups: dict[str, list[Instruction]] = {}
    for instruction in instructions:
        groups.setdefault(instruction.group, []).append(instruction)
    counts = largest_remainder({name: 1.0 for name in groups}, len(instructions))
    return [x for name, members in groups.items() for x in draw(members, counts[name], f"{seed} {name}")]


def allot(sizes: Mapping[str, int], weights: Mapping[str, float | None], mixing: Mixing) -> dict[str, int]:
    """Rows of each source: as many as it has, unless weights, a temperature, a cap or a total say otherwise.

    p ∝ the weights where there are some, else ∝ min(n, cap)^(1/temperature): examples-proportional mixing with a cap
    (Raffel et al. 2020, §3.5.2), flattened by a temperature (Arivazhagan et al. 2019).
    """
    weighted = [name for name, weight in weights.items() if weight is not None]
    if weighted and len(weighted) < len(sizes):
        unsaid = next(name for name in sizes if name not in weighted)
        raise ConfigError(f"data.sources.{unsaid}.weight has no value, others have; weigh every source or none")
    capped = {name: min(n, mixing.cap or n) for name, n in sizes.items()}
    shares = {name: weights[name] or n ** (1 / mixing.temperature) for name, n in capped.items()}
    return largest_remainder(shares, mixing.rows or sum(capped.values()))


def largest_remainder(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """`total` whole rows in proportion to the shares; what rounding down leaves goes to the largest remainders."""
    exact = {name: total * share / sum(shares.values()) for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def draw(rows: Sequence[Row], n: int, seed: str) -> list[Row]:
    """n rows: all of them as often as they fit, then some of them, in the order of their file."""
    if not rows:
        return []
    passes, rest = divmod(n, len(rows))
    some = sorted(random.Random(seed).sample(range(len(rows)), rest))
    return [*list(rows) * passes, *(rows[i] for i in some)]
