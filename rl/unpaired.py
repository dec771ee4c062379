"""Unpaired preferences: a response, and whether it is a good one."""

from __future__ import annotations

from dataclasses import dataclass

from models.chat import Message
from models.conversations import chat_message, dialogue_of, read_prompt
from models.errors import Origin
from models.reading import Row


@dataclass(frozen=True)
class Labelled:
    """One response to a prompt that ends with a user turn."""

    prompt: tuple[Message, ...]
    response: str
    desirable: bool
    origin: Origin


def unpaired(row: Row) -> list[Labelled]:
    """{"prompt", "completion", "label": true or false}; prompt and completion each a text or a list of messages."""
    label = row.value("label")
    if not isinstance(label, bool):
        raise row.bad("label", "true (desirable) or false")
    prompt = read_prompt(row, "prompt")
    if not isinstance(row.value("completion"), list):
        return [Labelled(prompt, row.filled("completion"), label, row.origin)]
    reply = [chat_message(turn) for turn in row.rows("completion")]
    *before, last = dialogue_of([*prompt, *reply], row, "completion")
    return [Labelled(tuple(before), last.content, label, row.origin)]
