"""Readers of instruction data: each turns a row of one published form into instructions.

To add a form, write its function and name it in FORMATS. Texts are kept exactly as they stand; placeholders such as
`{{name}}` are text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from instruct.records import Document, Instruction
from models.chat import Message
from models.conversations import chat_message, dialogue_of, read_prompt, sharegpt_message
from models.errors import ConfigError
from models.reading import Row
from models.split import DataSource, Split, check_choice, prompt_key, read_split, text_key


def alpaca(row: Row) -> list[Instruction]:
    """{"instruction", "input", "output"}; `system` and `history` ([[said, replied], ...]) are optional."""
    prompt = (*system_turn(row), *past_turns(row), task_turn(row, row.filled("instruction")))
    return [Instruction((*prompt, Message("assistant", row.filled("output"))), row.origin)]


def task_turn(row: Row, instruction: str) -> Message:
    """The user's turn: an instruction and, after an empty line, the row's `input` where it has one."""
    given = row.text("input")
    return Message("user", f"{instruction}\n\n{given}" if given.strip() else instruction)


def system_turn(row: Row) -> list[Message]:
    """The system turn of a row with a `system` field, or none."""
    text = row.text("system") if row.has("system") else ""
    return [Message("system", text)] if text.strip() else []


def past_turns(row: Row) -> list[Message]:
    """The turns of a row with a `history` field, or none."""
    turns: list[Message] = []
    for pair in row.values("history") if row.has("history") else []:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(t, str) and t.strip() for t in pair)):
            raise row.bad("history", "a list of [said, replied], texts that are not empty")
        turns += [Message("user", pair[0]), Message("assistant", pair[1])]
    return turns


def sharegpt(row: Row) -> list[Instruction]:
    """{"conversations": [{"from", "value"}, ...]}; `system` is optional, and so is `chosen`, which pairs reply with."""
    turns = [*system_turn(row), *map(sharegpt_message, row.rows("conversations"))]
    turns += [sharegpt_message(row.row("chosen"))] if row.has("chosen") else []
    return [Instruction(dialogue_of(turns, row, "conversations"), row.origin)]


def messages(row: Row) -> list[Instruction]:
    """{"messages": [{"role", "content"}, ...]}, as OpenAI's API and ChatML write it."""
    turns = [chat_message(turn) for turn in row.rows("messages")]
    return [Instruction(dialogue_of(turns, row, "messages"), row.origin)]


def prompt_completion(row: Row) -> list[Instruction]:
    """{"prompt", "completion"}, each a text or a list of messages."""
    prompt = read_prompt(row, "prompt")
    if not isinstance(row.value("completion"), list):
        return [Instruction((*prompt, Message("assistant", row.filled("completion"))), row.origin)]
    reply = [chat_message(turn) for turn in row.rows("completion")]
    return [Instruction(dialogue_of([*prompt, *reply], row, "completion"), row.origin)]


def self_instruct(row: Row) -> list[Instruction]:
    """{"instruction", "instances": [{"input", "output"}, ...]}: one instruction for each instance."""
    instruction = row.filled("instruction")
    instances = row.rows("instances")
    if not instances:
        raise row.bad("instances", "a list that is not empty")
    return [
        Instruction((task_turn(instance, instruction), Message("assistant", instance.filled("output"))), row.origin)
        for instance in instances
    ]


def text(row: Row) -> list[Document]:
    """{"text"}: a plain document."""
    return [Document(row.filled("text"), row.origin)]


FORMATS: dict[str, Callable[[Row], list[Instruction]]] = {
    "alpaca": alpaca,
    "sharegpt": sharegpt,
    "messages": messages,
    "prompt_completion": prompt_completion,
    "self_instruct": self_instruct,
}
DOCUMENT_FORMATS: dict[str, Callable[[Row], list[Document]]] = {"text": text}


@dataclass(kw_only=True)
class InstructionData(DataSource):
    """A source of instructions or, with a format of documents, of plain text."""

    format: str  # a name in FORMATS or DOCUMENT_FORMATS, or world: what instruct.sources generates

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("format", self.format, (*FORMATS, *DOCUMENT_FORMATS, "world"))


def read_instructions(data: InstructionData) -> Split[Instruction]:
    """The instructions of a source, split by prompt. Raises DataError or BadRow by the source's policies."""
    if data.format not in FORMATS:
        raise ConfigError(f"data.format={data.format} holds documents, not instructions; use {', '.join(FORMATS)}")
    return read_split(data, FORMATS[data.format], lambda instruction: prompt_key(instruction.messages))


def read_documents(data: InstructionData) -> Split[Document]:
    """The documents of a source, split by their text."""
    if data.format not in DOCUMENT_FORMATS:
        raise ConfigError(f"data.format={data.format} holds no documents; use {', '.join(DOCUMENT_FORMATS)}")
    return read_split(data, DOCUMENT_FORMATS[data.format], lambda document: text_key(document.text))
