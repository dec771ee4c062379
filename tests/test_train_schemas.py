"""Dictionaries of a configuration: any name on the command line, the options below it checked as any others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import MISSING, OmegaConf

from train.digests import config_leaves
from train.help import options
from train.schemas import schema_node, without_plus


@dataclass
class Source:
    path: str = MISSING  # where it stands
    limit: int | None = None  # rows


@dataclass
class Part:
    models: dict[str, str] = field(default_factory=dict, metadata={"input": True})  # by any name
    sources: dict[str, Source] = field(default_factory=dict)


@dataclass
class Whole:
    part: Part = field(default_factory=Part)
    seed: int = 0


def composed(*arguments: str) -> Any:
    ConfigStore.instance().store(name="whole", node=schema_node(Whole, arguments))
    with initialize_config_module("conf", version_base="1.3"):
        return OmegaConf.to_object(compose("whole", overrides=list(arguments)))


def test_names_are_free_and_what_they_name_is_typed() -> None:
    found = composed("part.models.before=a", "part.sources.x.path=b", "part.sources.x.limit=3", "part.sources.y.path=c")
    assert found.part == Part({"before": "a"}, {"x": Source("b", 3), "y": Source("c")})


def test_a_whole_dictionary_and_a_plus_mean_the_same() -> None:
    want = composed("part.models.a=b", "part.sources.x.path=c")
    assert composed("part.models={a: b}", "part.sources={x: {path: c}}") == want
    assert composed("+part.models.a=b", "+part.sources.x.path=c") == want
    assert composed("part.models.a=b", "part.sources.x={path: c}") == want


@pytest.mark.parametrize(
    "wrong", ["part.sources.x.pat=a", "part.sources.x.limit=many", "part.model.x=a", "sources.x=a"]
)
def test_an_option_that_a_named_entry_lacks_is_refused(wrong: str) -> None:
    with pytest.raises(HydraException):
        composed("part.sources.x.path=b", wrong)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("+part.sources.x.limit=3", "part.sources.x.limit=3"),
        ("++part.sources.x.limit=3", "part.sources.x.limit=3"),
        ("part.sources.x.limit=3", "part.sources.x.limit=3"),
        ("+part.models.a=b", "+part.models.a=b"),
        ("+part.nothing.x.y=3", "+part.nothing.x.y=3"),
        ("+seed=3", "+seed=3"),
        ("~seed", "~seed"),
    ],
)
def test_a_plus_before_an_option_below_a_name_is_not_needed_and_not_wrong(typed: str, said: str) -> None:
    assert without_plus(typed, Whole) == said


def test_leaves_of_named_entries_carry_the_marks_of_the_field() -> None:
    leaves = {name: (value, dict(meta)) for name, value, meta in config_leaves(Part({"a": "b"}, {"x": Source("c")}))}
    assert leaves == {"models.a": ("b", {"input": True}), "sources.x.path": ("c", {}), "sources.x.limit": (None, {})}


def test_help_lists_the_options_below_a_name() -> None:
    assert [name for name, _, _ in options(Part)] == ["models", "sources.<name>.path", "sources.<name>.limit"]
