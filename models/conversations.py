"""Conversations as data files write them, turned into messages: lists of turns, and transcripts with speaker marks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from models.chat import Message
from models.reading import Row, UnusableRow

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
SPEAKERS = {  # as ShareGPT files name them
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "assistant": "assistant",
}


def chat_message(row: Row) -> Message:
    """A turn {"role", "content"}, as OpenAI's API and chat templates write it."""
    return _message(row, "role", "content", ROLES)


def sharegpt_message(row: Row) -> Message:
    """A turn {"from", "value"}, as ShareGPT files write it."""
    return _message(row, "from", "value", SPEAKERS)


def _message(row: Row, role: str, content: str, roles: Mapping[str, str]) -> Message:
    name = row.text(role)
    if name not in roles:
        raise row.bad(role, f"one of {', '.join(roles)}")
    # A system turn may be empty: it then says nothing, and means the same as none.
    text = row.text(content) if roles[name] == "system" else row.filled(content)
    return Message(roles[name], text)


def prompt_of(messages: Sequence[Message], row: Row, field: str) -> tuple[Message, ...]:
    """The messages, checked to be a prompt: at most one system turn, then turns in alternation, the last the user's."""
    return _alternating(messages, row, field, last="user")


def dialogue_of(messages: Sequence[Message], row: Row, field: str) -> tuple[Message, ...]:
    """The messages, checked to be a whole conversation: as a prompt, but ending with the assistant's turn."""
    return _alternating(messages, row, field, last="assistant")


def _alternating(messages: Sequence[Message], row: Row, field: str, last: str) -> tuple[Message, ...]:
    said = [message for message in messages if message.content or message.role != "system"]
    turns = said[1:] if said and said[0].role == "system" else said
    for number, turn in enumerate(turns):
        if turn.role != ("user", "assistant")[number % 2]:
            raise row.bad(field, "turns of user and assistant that alternate, after at most one of the system")
    if not turns or turns[-1].role != last:
        raise row.bad(field, f"a conversation that ends with a turn of the {last}")
    return tuple(said)


def read_prompt(row: Row, field: str) -> tuple[Message, ...]:
    """A prompt that is written as a text (one user turn) or as a list of chat messages."""
    if isinstance(row.value(field), list):
        return prompt_of([chat_message(turn) for turn in row.rows(field)], row, field)
    return (Message("user", row.filled(field)),)


def before_last_reply(messages: Sequence[Message]) -> list[Message]:
    """The messages up to the last user turn."""
    return list(messages[:-1]) if messages and messages[-1].role == "assistant" else list(messages)


_MARK = re.compile(r"\n\n(Human|Assistant):")


def read_transcript(row: Row, field: str) -> tuple[tuple[Message, ...], str]:
    """Prompt and last reply (maybe empty) of a transcript with marks `\\n\\nHuman:` and `\\n\\nAssistant:` (hh-rlhf).

    The one space after a mark belongs to it, all else to the turn. Turns of one speaker that follow each other in the
    prompt become one. Raises UnusableRow for an empty turn in the prompt, and for a prompt that ends with a reply.
    """
    head, *parts = _MARK.split(row.text(field))
    if head or not parts or parts[-2] != "Assistant":
        raise row.bad(field, "a transcript from '\\n\\nHuman:' to a last '\\n\\nAssistant:' turn")
    turns = [(mark, text.removeprefix(" ")) for mark, text in zip(parts[::2], parts[1::2], strict=True)]
    return _joined(turns[:-1], row, field), turns[-1][1]


def _joined(turns: Sequence[tuple[str, str]], row: Row, field: str) -> tuple[Message, ...]:
    messages: list[Message] = []
    for mark, text in turns:
        role = "user" if mark == "Human" else "assistant"
        if not text.strip():
            raise UnusableRow(row.origin, "empty turn in the prompt")
        if messages and messages[-1].role == role:
            messages[-1] = Message(role, f"{messages[-1].content}\n\n{text}")
            row.notes.append("turns of one speaker joined")
        else:
            messages.append(Message(role, text))
    if not messages or messages[0].role != "user":
        raise row.bad(field, "a transcript that opens with '\\n\\nHuman:'")
    if messages[-1].role != "user":
        raise UnusableRow(row.origin, "prompt that ends with a reply")
    return tuple(messages)
