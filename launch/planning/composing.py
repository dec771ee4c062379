"""A stage's configuration from the options of its command line, without running it."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from typing import Any, get_type_hints

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore

from models.errors import ConfigError
from train.entry import checked
from train.schemas import quoted, schema_node, without_plus

STAGES = ("base", "sft", "reward", "dpo", "ppo")  # those that train one thing


def stage_schema(name: str) -> type:
    """The configuration dataclass of a stage. Raises ConfigError where it is none that trains."""
    if name not in STAGES:
        raise ConfigError(f"-m stages.{name}: expected a stage that trains{nearest(name, STAGES)}")
    return get_type_hints(importlib.import_module(f"stages.{name}").run)["cfg"]


def composed(name: str, options: Sequence[str]) -> Any:
    """The checked configuration that `python -m stages.<name> <options>` would run with."""
    schema = stage_schema(name)
    ConfigStore.instance().store(name=f"{name}_schema", node=schema_node(schema, options))
    with initialize_config_module("conf", version_base="1.3"):
        return checked(
            compose(config_name=name, overrides=[without_plus(quoted(option), schema) for option in options])
        )


def nearest(name: str, known: Sequence[str]) -> str:
    """`; did you mean x?`, or what there is where nothing is near."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"; did you mean {close[0]}?" if close else f", one of {', '.join(known)}"


def value_of(options: Sequence[str], name: str) -> str | None:
    """What the last option of this name says; None where none does."""
    said = [option.partition("=")[2] for option in options if option.partition("=")[0] == name]
    return said[-1] if said else None


def without(options: Sequence[str], *names: str) -> list[str]:
    """The options but those of these names."""
    return [option for option in options if option.partition("=")[0] not in names]
