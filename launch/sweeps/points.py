"""The points of a sweep: their names, the folders of their stages, and which of them can run side by side."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf

from train.artifact import MANIFEST
from train.digests import digest

LONGEST = 100  # characters of a point's name


@dataclass(frozen=True)
class Point:
    """One setting. name: its folder below the sweep's. stages: the folders of the stages that it is made of."""

    name: str
    options: Mapping[str, str]
    overrides: tuple[str, ...]
    stages: tuple[Path, ...]


def quoted(text: str) -> str:
    """Text as the value of an override, whatever marks are in it."""
    return QuotedString(text, Quote.single).with_quotes()


def readable(options: Mapping[str, str], short: Mapping[str, str]) -> str:
    """A folder's name that says what the options are, and that no other setting has: `learning_rate-1e-05+seed-1`.

    It can be typed as part of a path, without quotes. short: the names of options.
    """
    told = "+".join(f"{short[option]}-{value}" for option, value in options.items())
    name = re.sub(r"[^\w.+-]+", "-", told, flags=re.ASCII)[:LONGEST]
    return name if name == told else f"{name}-{digest(dict(options))[:6]}"


def stage_names(
    config: DictConfig, options: Mapping[str, str], short: Mapping[str, str], sweep: str, point: str
) -> dict[str, str]:
    """Where each stage of a composed configuration belongs: `name` by its key; nothing where there is one stage.

    A stage belongs to the settings that it depends on, through its own options or those of the stages that it reads
    from. Two points that differ in nothing of that share its folder, so that it is made once.
    """
    parts = [key for key in config if key != "hydra" and _has_name(config, key)]
    texts = {part: OmegaConf.to_yaml(config[part]) for part in parts}
    depends: dict[str, set[str]] = {}
    for part, text in texts.items():
        read_from = [earlier for earlier in depends if f"${{{earlier}.name}}" in text]
        own = {option for option in options if part in _readers(option, texts)}
        depends[part] = own.union(*(depends[earlier] for earlier in read_from))
    names = {}
    for part, on in depends.items():
        subset = {option: value for option, value in options.items() if option in on}
        names[part] = point if len(subset) == len(options) else f"{sweep}/{readable(subset, short)}".rstrip("/")
    return names


def _has_name(config: DictConfig, key: str) -> bool:
    return not OmegaConf.is_missing(config, key) and isinstance(config[key], DictConfig) and "name" in config[key]


def _readers(option: str, texts: Mapping[str, str]) -> Sequence[str]:
    """The stages that an option changes: the one that it belongs to, those that refer to it, or all of them."""
    place = option.lstrip("+").rpartition("@")[2]
    first = place.partition(".")[0]
    return [first] if first in texts else [p for p, text in texts.items() if f"${{{place}}}" in text] or list(texts)


def waves(points: Sequence[Point]) -> Iterator[list[Point]]:
    """Points that can run side by side: those that share a stage come after the one that makes it."""
    waiting, started = list(points), set[Path]()
    while waiting:
        wave: list[Point] = []
        claimed: set[Path] = set()
        for point in waiting:
            needed = {stage for stage in point.stages if not (stage in started and (stage / MANIFEST).is_file())}
            if not needed & claimed:
                wave.append(point)
                claimed |= needed
        yield wave
        started |= claimed
        waiting = [point for point in waiting if point not in wave]
