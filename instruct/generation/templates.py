"""The words that a teacher is asked in: `templates.yaml`, or a file of one's own for some of them."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from instruct.templates import filled
from models.errors import ConfigError

OWN = Path(__file__).with_name("templates.yaml")


class Ask(NamedTuple):
    """A template that was filled in."""

    template: str
    text: str


class Templates:
    """Texts by full name (`evolve.deepen`), with places such as `{instruction}`; other braces are text."""

    def __init__(self, file: str | None = None) -> None:
        own = _named(_read(str(OWN)), str(OWN))
        self._texts = own if file is None else own | _checked(_named(_read(file), file), own, file)

    def ask(self, template: str, **values: str) -> Ask:
        """The template with its places filled in."""
        return Ask(template, filled(self._texts[template], values).strip())

    def digest(self, template: str) -> str:
        """A short digest of the template's text."""
        return hashlib.sha256(self._texts[template].encode()).hexdigest()[:12]


def _read(file: str) -> Any:
    try:
        return yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        line = " ".join(str(error).split())
        raise ConfigError(f"templates={file}: cannot be read ({line}); see {OWN.name} for the form") from error


def _named(tree: Any, file: str, place: str = "") -> dict[str, str]:
    if isinstance(tree, str):
        return {place: tree}
    if not isinstance(tree, Mapping):
        raise ConfigError(f"templates={file}: {place or 'the file'} is no text and no mapping of texts by name")
    parts = [_named(value, file, f"{place}.{name}" if place else str(name)) for name, value in tree.items()]
    return {name: text for part in parts for name, text in part.items()}


def _checked(texts: dict[str, str], own: dict[str, str], file: str) -> dict[str, str]:
    """The texts, each of a name that there is, and with all the places that ours of this name has."""
    for name, text in texts.items():
        if name not in own:
            close = difflib.get_close_matches(name, own, n=1, cutoff=0.0)
            raise ConfigError(f"templates={file}: no template is called {name}; did you mean {close[0]}?")
        missing = [place for place in re.findall(r"\{\w+\}", own[name]) if place not in text]
        if missing:
            raise ConfigError(f"templates={file}: {name} has no {missing[0]}, so it would ask about nothing; add it")
    return texts
