"""`--help`: what a stage does, its options with their defaults and what they do, and the groups to choose from.

The words stand once, as comments beside the fields of the configuration dataclasses.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

PER_LINE = re.MULTILINE | re.DOTALL
CONF = Path(__file__).parent.parent / "conf"


def help_text(stage: str, schema: type, story: str) -> str:
    """The whole page. stage: as it is typed, `data audit` for one that is a verb of another."""
    lines = [f"python -m stages.{stage} [option=value ...] [group=choice ...]", "", story.strip(), "", "groups"]
    for folder in sorted(p for p in CONF.iterdir() if p.is_dir() and not p.name.startswith("_")):
        choices = sorted(p.stem for p in folder.glob("*.yaml"))
        if choices:
            lines.append(f"  {folder.name}={' | '.join(choices)}")
    lines += ["", "options"]
    for name, default, meaning in options(schema):
        shown = f"  {name}={default}"
        lines.append(f"{shown:<48}  {meaning}".rstrip())
    return "\n".join(
        [*lines, "", f"defaults of the stage: conf/{stage.split()[-1]}.yaml; --cfg job shows them composed"]
    )


def options(schema: type, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(full name, default, meaning) of every option below a configuration, nested ones too."""
    hints, meanings = get_type_hints(schema), comments(schema)
    for field in dataclasses.fields(schema):
        nested = [t for t in (hints[field.name], *get_args(hints[field.name])) if dataclasses.is_dataclass(t)]
        if nested:
            named = "<name>." if get_origin(hints[field.name]) is dict else ""
            yield from options(nested[0], f"{prefix}{field.name}.{named}")
        else:
            yield prefix + field.name, shown_default(field), meanings.get(field.name, "")


def comments(schema: type) -> dict[str, str]:
    """The comment behind each field, those of parent classes too."""
    found: dict[str, str] = {}
    for part in reversed(schema.__mro__):
        if dataclasses.is_dataclass(part):
            # A long field closes its parenthesis on a line of its own, and the comment stands there.
            for match in re.finditer(
                r"^    (\w+): (?:[^\n]*?|[^\n]*\($.*?^    \))  # ([^\n]*)$", inspect.getsource(part), PER_LINE
            ):
                found[match.group(1)] = match.group(2)
    return found


def shown_default(field: dataclasses.Field[Any]) -> str:
    """The default as it would be typed; `???` where a value must be given."""
    value = field.default
    if value is dataclasses.MISSING:
        value = field.default_factory() if field.default_factory is not dataclasses.MISSING else "???"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
