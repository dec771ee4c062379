"""Prompts alone, for rollouts and evaluation, out of any data source: instructions, rankings, lists of questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from instruct.readers import past_turns, system_turn, task_turn
from instruct.templates import document_template
from models.chat import Message, Prompt
from models.conversations import (
    before_last_reply,
    chat_message,
    prompt_of,
    read_prompt,
    read_transcript,
    sharegpt_message,
)
from models.errors import Origin
from models.options import INPUT
from models.reading import Row
from models.split import DataSource, Split, prompt_key, read_split


@dataclass(kw_only=True)
class PromptData(DataSource):
    """A source of prompts: of instructions, rankings or questions."""

    on_unusable: str = "drop"  # empty prompts, and transcripts that do not end with a reply: error, or drop (counted)
    documents: str | None = field(default=None, metadata=INPUT)  # template file of rows' `documents`; null: ours
    system: str | None = None  # a system turn for prompts that have none; it changes no row's side of the split


@dataclass(frozen=True)
class Asked:
    """A prompt, where it stands, and what else its row says (an answer to compare with, say)."""

    prompt: Prompt
    origin: Origin
    fields: Mapping[str, Any] = field(default_factory=dict)

    def under(self, system: str | None) -> Asked:
        """The same below a system turn, unless there is one already."""
        if system is None or self.prompt[0].role == "system":
            return self
        return replace(self, prompt=(Message("system", system), *self.prompt))


def read_asked(data: PromptData) -> Split[Asked]:
    """The prompts of a source with their rows, split by prompt. The fields of a row tell its form; replies may be
    missing.

    Of several turns the prompt is all before the last reply; of questions with follow-ups (`turns`) it is the first.
    """
    return read_split(data, partial(asked_in, documents=data.documents), lambda record: prompt_key(record.prompt))


def read_prompts(data: PromptData) -> Split[Prompt]:
    """The prompts alone."""
    asked = read_asked(data)
    return Split([record.prompt for record in asked.train], [record.prompt for record in asked.eval], asked.readings)


def asked_in(row: Row, documents: str | None = None) -> list[Asked]:
    """The prompts of one row, its documents before each. documents: the file of their template; None: ours."""
    for name, prompts in PROMPT_FIELDS.items():
        if row.has(name):
            found = prompts(row)
            if row.has("documents"):
                render = document_template(documents or "documents").render
                found = [(*p[:-1], Message(p[-1].role, render(row, p[-1].content))) for p in found]
            return [Asked(prompt, row.origin, row.fields) for prompt in found]
    raise row.bad("prompt", f"one of the fields {', '.join(PROMPT_FIELDS)}")


def _first_turn(row: Row) -> list[Prompt]:
    turns = row.values("turns")
    if not turns or not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise row.bad("turns", "a list of texts that are not empty")
    return [(Message("user", turns[0]),)]


def _chat(row: Row) -> list[Prompt]:
    turns = [chat_message(turn) for turn in row.rows("messages")]
    return [prompt_of(before_last_reply(turns), row, "messages")]


def _sharegpt(row: Row) -> list[Prompt]:
    turns = [*system_turn(row), *map(sharegpt_message, row.rows("conversations"))]
    return [prompt_of(before_last_reply(turns), row, "conversations")]


def _instruction(row: Row) -> list[Prompt]:
    instruction = row.filled("instruction")
    if row.has("instances"):
        return [(task_turn(instance, instruction),) for instance in row.rows("instances")]
    task = task_turn(row, instruction) if row.has("input") else Message("user", instruction)
    return [(*system_turn(row), *past_turns(row), task)]


PROMPT_FIELDS: dict[str, Callable[[Row], list[Prompt]]] = {  # the first of these that a row has says how to read it
    "turns": _first_turn,
    "messages": _chat,
    "conversations": _sharegpt,
    "instruction": _instruction,
    "prompt": lambda row: [read_prompt(row, "prompt")],
    "question": lambda row: [read_prompt(row, "question")],
    "input": lambda row: [read_prompt(row, "input")],
    "chosen": lambda row: [read_transcript(row, "chosen")[0]],
}
