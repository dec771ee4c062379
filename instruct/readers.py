"""Readers of instruction data: each turns a row of one published form into instructions.

To add a form, write its function and name it in FORMATS. Texts are kept exactly as they stand; placeholders such as
`{{name}}` are text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

from instruct.records import Document, Instruction
from instruct.templates import as_text, document_template, task_template
from models.chat import Message
from models.conversations import chat_message, dialogue_of, read_prompt, sharegpt_message
from models.errors import ConfigError
from models.options import INPUT
from models.reading import FilteredRow, Reading, Row
from models.split import DataSource, Split, Stream, check_choice, prompt_key, read_split, read_stream, text_key


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


TASK, MIXTURE, WORLD, WORLD_TEXT = "task", "mixture", "world", "world_text"


@dataclass(kw_only=True)
class Source(DataSource):
    """A source of instructions or, with a format of documents, of plain text."""

    format: str  # a reader: alpaca, sharegpt, messages, …, task (by template), text, or what the world generates
    template: str | None = field(default=None, metadata=INPUT)  # of format=task: a name in instruct/library, or a file
    columns: dict[str, str] = field(default_factory=dict)  # of format=task: where the template's fields stand: a.b.0
    constants: dict[str, str] = field(default_factory=dict)  # of format=task: fields that all rows share
    labels: dict[str, str] = field(default_factory=dict)  # of format=task: words for the values of the field label
    documents: str | None = field(default=None, metadata=INPUT)  # template file of rows' `documents`; null: ours
    only: dict[str, list[str]] = field(default_factory=dict)  # rows with one of these values in a field; others counted

    known_formats: ClassVar[tuple[str, ...]] = (*FORMATS, TASK, *DOCUMENT_FORMATS, WORLD, WORLD_TEXT)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("format", self.format, self.known_formats)
        if (self.template is None) == (self.format == TASK):
            raise ConfigError(f"data.template={self.template}: a template belongs to data.format=task, and to no other")
        for name in ("columns", "constants", "labels"):
            if getattr(self, name) and self.format != TASK:
                raise ConfigError(f"data.{name}: read by data.format=task alone, not by {self.format}")

    @property
    def has_instructions(self) -> bool:
        return self.format in (*FORMATS, TASK)


@dataclass(kw_only=True)
class Part(Source):
    """A source with its place among others."""

    balance: str | None = None  # a field of the rows, such as task or difficulty: its values get equal shares
    weight: float | None = None  # of this source in a mixture; null: by its rows

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight is not None and not 0 < self.weight < float("inf"):
            raise ConfigError(f"data.weight={self.weight}: expected a number above 0, or null")


@dataclass
class Mixing:
    """How several sources become one set of rows."""

    temperature: float = 1.0  # shares of the rows by size^(1/temperature): 1 in proportion, large nearly equal
    cap: int | None = None  # a source counts as at most so many rows
    rows: int | None = None  # of a pass; null: as many as the sources have, after the cap
    schedule: str = "together"  # or sequential: one source after the other, in their order

    def __post_init__(self) -> None:
        check_choice("mixing.schedule", self.schedule, ("together", "sequential"))
        if not 0 < self.temperature < float("inf"):
            raise ConfigError(f"data.mixing.temperature={self.temperature}: expected a number above 0")
        for name in ("cap", "rows"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"data.mixing.{name}={value}: expected at least 1, or null")


@dataclass(kw_only=True)
class InstructionData(Part):
    """One source, or a mixture of several."""

    known_formats: ClassVar[tuple[str, ...]] = (*Part.known_formats, MIXTURE)

    sources: dict[str, Part] = field(default_factory=dict)  # of data=mixture, by any name: data.sources.mine.path=...
    mixing: Mixing = field(default_factory=Mixing)
    streaming: bool = False  # read one file as it is needed, in passes; nothing is held in memory
    stream_buffer: int = 2000  # rows that a stream is shuffled among
    stream_eval: int = 500  # of a stream's held-out rows, so many are evaluated on

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.streaming and (not self.has_instructions or self.balance):
            raise ConfigError("data.streaming=true: reads one file of instructions, and cannot balance it")
        for name in ("stream_buffer", "stream_eval"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name}={getattr(self, name)}: expected at least 1")
        if self.format != MIXTURE and (self.sources or self.mixing != Mixing()):
            raise ConfigError(f"data.sources and data.mixing are read by data=mixture alone, not by {self.format}")


def instruction_reader(data: Source) -> Callable[[Row], list[Instruction]]:
    """The reader of a source: its form, its filters, and the documents of a row before what is asked of them."""
    if not data.has_instructions:
        known = ", ".join((*FORMATS, TASK))
        raise ConfigError(f"data.format={data.format} holds documents, not instructions; use {known}")
    read = by_template(data) if data.format == TASK else FORMATS[data.format]
    documents = document_template(data.documents or "documents")
    group_by = data.balance if isinstance(data, Part) else None

    def reader(row: Row) -> list[Instruction]:
        for name, allowed in data.only.items():
            if as_text(row.value(name)) not in allowed:
                raise FilteredRow(row.origin, f"{name} is none of data.only")
        group = as_text(row.value(group_by)) if group_by else ""
        found = [replace(instruction, group=group) for instruction in read(row)]
        return [_after(documents.render, row, x) for x in found] if row.has("documents") else found

    return reader


def _after(render: Callable[[Row, str], str], row: Row, instruction: Instruction) -> Instruction:
    """The instruction with the row's documents before the last thing that the user says."""
    *before, asked, replied = instruction.messages
    return replace(instruction, messages=(*before, Message("user", render(row, asked.content)), replied))


def by_template(data: Source) -> Callable[[Row], list[Instruction]]:
    """Rows of any table as instructions, each in one of the template's wordings."""
    template = task_template(data.template or "", data.labels)

    def task(row: Row) -> list[Instruction]:
        prompt, answer = template.read(row, columns=data.columns, constants=data.constants, seed=data.seed)
        return [Instruction((Message("user", prompt), Message("assistant", answer)), row.origin)]

    return task


def read_instructions(data: Source) -> Split[Instruction]:
    """The instructions of a source, split by prompt. Raises DataError or BadRow by the source's policies."""
    found = read_split(data, instruction_reader(data), lambda instruction: prompt_key(instruction.messages))
    note_repeats(found.train, found.readings[0])
    return found


def stream_instructions(data: InstructionData) -> Stream[Instruction]:
    """The same as a stream."""

    def key(instruction: Instruction) -> str:
        return prompt_key(instruction.messages)

    return read_stream(data, instruction_reader(data), key, n_eval=data.stream_eval)


def note_repeats(instructions: list[Instruction], reading: Reading) -> None:
    """Count rows that repeat an earlier one, and rows that answer an earlier prompt in another way."""
    replies: dict[tuple[Message, ...], set[str]] = {}
    for instruction in instructions:
        said = replies.setdefault(instruction.messages[:-1], set())
        if (reply := instruction.messages[-1].content) in said:
            reading.notes["the same row again"].append(instruction.origin.line)
        elif said:
            reading.notes["another answer to the same prompt"].append(instruction.origin.line)
        said.add(reply)


def read_documents(data: Source) -> Split[Document]:
    """The documents of a source, split by their text."""
    if data.format not in DOCUMENT_FORMATS:
        known = ", ".join((*DOCUMENT_FORMATS, WORLD_TEXT))
        raise ConfigError(f"data.format={data.format} holds no documents; use {known}")
    return read_split(data, DOCUMENT_FORMATS[data.format], lambda document: text_key(document.text))
