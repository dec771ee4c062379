"""A configuration dataclass as the node that Hydra composes over.

Hydra takes no new name in a dictionary without a `+`, and sets none below a name that is not there. What a field
`dict[str, ...]` holds is named by the person who types, so its names are taken from the command line first.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf


def schema_node(schema: type, arguments: Sequence[str]) -> DictConfig:
    """The schema's node, its dictionaries open to any name. arguments: of the command line, as in `tasks.x.path=y`."""
    node = OmegaConf.structured(schema)
    _open(node, schema, [re.split("[=~+]", argument.lstrip("+"))[0].split(".") for argument in arguments])
    return node


def quoted(argument: str) -> str:
    """A value with letters outside ASCII, in the quotes that Hydra wants around them."""
    name, equals, value = argument.partition("=")
    if not equals or value.isascii() or set(value) & set("'\"[]{}(),"):
        return argument
    return f'{name}="{value}"'


def without_plus(argument: str, schema: type) -> str:
    """An option below a name that is the person's own, without the `+` which Hydra wants for a new one: `schema_node`
    has put the name there. Any other argument as it is."""
    option, kind = argument.lstrip("+"), schema
    for part in re.split("[=~]", option)[0].split(".")[:-2]:
        hint = get_type_hints(kind).get(part)
        if get_origin(hint) is dict and dataclasses.is_dataclass(get_args(hint)[1]):
            return option
        if not dataclasses.is_dataclass(hint):
            break
        kind = hint
    return argument


def _open(node: DictConfig, schema: type, typed: Sequence[Sequence[str]]) -> None:
    for name, hint in get_type_hints(schema).items():
        if dataclasses.is_dataclass(hint):
            if OmegaConf.is_missing(node, name):
                node[name] = hint
            _open(node[name], hint, typed)
        elif get_origin(hint) is dict:
            OmegaConf.set_struct(node[name], False)
            kind: Any = get_args(hint)[1]
            if dataclasses.is_dataclass(kind):
                for option in typed:
                    if name in option[:-1]:
                        node[name][option[option.index(name) + 1]] = kind
