"""Templates: rows of any task table as instructions, in several wordings, and retrieved documents before a question.

A template is a YAML file, of the library (instruct/library/) or a user's own:

    task: translation                # what the rows are examples of
    labels: {"0": no, "1": yes}      # optional: words for the values of the field `label`
    prompts: ["Translate into {target_language}:\n\n{source}", ...]
    answer: "{target}"

`{name}` stands for a field of the row; `{choices}` for the labels' words. After FLAN (Wei et al. 2022) and T0 (Sanh et
al. 2022).
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from models.errors import ConfigError
from models.reading import Row

LIBRARY = Path(__file__).parent / "library"
_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Template:
    """The wordings of one task."""

    task: str
    prompts: tuple[str, ...]
    answer: str
    labels: Mapping[str, str]

    def read(self, row: Row, *, columns: Mapping[str, str], constants: Mapping[str, str], seed: int) -> tuple[str, str]:
        """(prompt, answer) of a row. Of the prompts whose fields the row has, one of those that use the most.

        columns: where a field stands in the row if not under its own name, nested ones by a dotted path.
        constants: fields that all rows share. The row and the seed choose the wording, so added rows change none.
        """
        found: dict[str, str] = dict(constants)
        for name in sorted({name for text in (*self.prompts, self.answer) for name in fields_of(text)} - {"choices"}):
            value = _at(row, columns.get(name, name))
            if value is not None:
                found[name] = self._word(name, as_text(value))
        if self.labels:
            found["choices"] = one_of(list(dict.fromkeys(self.labels.values())))
        needed = [name for name in fields_of(self.answer) if name not in found]
        usable = [text for text in self.prompts if all(name in found for name in fields_of(text))]
        if needed or not usable:
            name = needed[0] if needed else next(n for n in fields_of(self.prompts[-1]) if n not in found)
            raise row.bad(columns.get(name, name), f"the {name} of the template, a text or a number")
        most = max(len(set(fields_of(text))) for text in usable)
        fullest = [text for text in usable if len(set(fields_of(text))) == most]
        return filled(fullest[_stable(f"{seed}\n{sorted(found.items())}", len(fullest))], found), filled(
            self.answer, found
        )

    def _word(self, name: str, value: str) -> str:
        return self.labels.get(value, value) if name == "label" else value


@dataclass(frozen=True)
class DocumentTemplate:
    """How retrieved documents stand before what is asked of them."""

    document: str
    untitled: str
    prompt: str

    def render(self, row: Row, question: str) -> str:
        """The question with the row's `documents` before it: texts, or objects with `text` and perhaps `title`."""
        shown = []
        for number, value in enumerate(row.values("documents"), 1):
            if isinstance(value, str):
                shown.append(filled(self.untitled, {"number": str(number), "text": value}))
                continue
            document = row.element("documents", number - 1)
            given = {"number": str(number), "text": document.filled("text")}
            if document.has("title"):
                shown.append(filled(self.document, {**given, "title": document.text("title")}))
            else:
                shown.append(filled(self.untitled, given))
        return filled(self.prompt, {"documents": "\n\n".join(shown), "question": question}) if shown else question


def task_template(name: str, labels: Mapping[str, str]) -> Template:
    """A template of the library by its name, or of a file; labels: in place of its own."""
    found = _read(name, required=("task", "prompts", "answer"), optional=("labels",))
    prompts, own = found["prompts"], found.get("labels", {})
    if not (isinstance(prompts, list) and prompts and all(isinstance(text, str) for text in prompts)):
        raise ConfigError(f"{name}: prompts: expected a list of texts")
    if not isinstance(own, dict):
        raise ConfigError(f"{name}: labels: expected the words of values, such as {{'0': negative}}")
    words = labels or {str(value): str(word) for value, word in own.items()}
    return Template(str(found["task"]), tuple(prompts), str(found["answer"]), words)


@functools.cache  # asked for at every row that has documents
def document_template(name: str) -> DocumentTemplate:
    """The template of retrieved documents: of the library, or of a file."""
    return DocumentTemplate(**_read(name, required=("document", "untitled", "prompt")))


def _read(name: str, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Any]:
    path = LIBRARY / f"{name}.yaml" if re.fullmatch(r"\w+", name) else Path(name)
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(sorted(file.stem for file in LIBRARY.glob("*.yaml")))
        raise ConfigError(f"template {name}: no such file, and not one of the library ({known})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"template {path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict) or not set(required) <= set(found) <= {*required, *optional}:
        got = ", ".join(map(str, found)) if isinstance(found, dict) else type(found).__name__
        raise ConfigError(f"template {path}: expected the keys {', '.join((*required, *optional))}, got {got}")
    return found


def fields_of(text: str) -> list[str]:
    """Names of the fields that stand in a template's text."""
    return _FIELD.findall(text)


def filled(text: str, values: Mapping[str, str]) -> str:
    """The text with its fields filled in, once: braces in a value are text."""
    return _FIELD.sub(lambda match: values.get(match.group(1), match.group(0)), text)


def as_text(value: Any) -> str:
    """A field as it is said: lists a line each, booleans as yes and no are written in JSON."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "\n".join(f"- {as_text(item)}" for item in value)
    return str(value)


def one_of(words: Sequence[str]) -> str:
    """'a, b or c'."""
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def _at(row: Row, path: str) -> Any:
    """The value at a dotted path of a row, None where it is missing, null or blank."""
    first, *rest = path.split(".")
    value = row.value(first) if row.has(first) else None
    for part in rest:
        if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            value = value.get(part) if isinstance(value, dict) else None
    blank = isinstance(value, str | list | dict) and not (value.strip() if isinstance(value, str) else value)
    return None if blank else value


def _stable(key: str, n: int) -> int:
    """One of n, by the key alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % n
