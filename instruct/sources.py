"""Where instructions and prompts come from: files, or the embedded world (`path=world`)."""

from __future__ import annotations

from instruct.prompts import PromptData, read_prompts
from instruct.readers import InstructionData, read_documents, read_instructions
from instruct.records import Instruction
from instruct.world import Task, World
from models.chat import Message, Prompt
from models.errors import Origin
from models.split import Split, held_out, prompt_key

WORLD = "world"


def instructions(data: InstructionData) -> Split[Instruction]:
    """The instructions of a source, split by prompt."""
    if data.path != WORLD:
        return read_instructions(data)
    pairs = World(data.seed).demonstrations(data.limit or 2000)
    rows = [
        Instruction((Message("user", task.prompt), Message("assistant", answer)), Origin(WORLD, i))
        for i, (task, answer) in enumerate(pairs, start=1)
    ]
    held = [held_out(prompt_key(row.messages), data.eval_fraction, data.seed) for row in rows]
    return Split(
        [row for row, out in zip(rows, held, strict=True) if not out],
        [row for row, out in zip(rows, held, strict=True) if out],
        (),
    )


def prompts(data: PromptData) -> Split[Prompt]:
    """The prompts of a source, split by prompt; of the world, those of training and of development tasks."""
    if data.path != WORLD:
        return read_prompts(data)
    per_family = max(1, (data.limit or 4096) // 16)
    world = World(data.seed)
    return Split(asked(world.tasks("train", per_family)), asked(world.tasks("dev", max(1, per_family // 8))), ())


def documents(data: InstructionData) -> list[str]:
    """Plain text of a source, in its order."""
    if data.path != WORLD:
        return [document.text for document in read_documents(data).train]
    return World(data.seed).documents(data.limit or 20_000)


def replay(data: InstructionData) -> list[str]:
    """Text like that of pretraining, to keep what was learnt: of the world, or a file's documents."""
    return World(data.seed).replay(data.limit or 2000) if data.path == WORLD else documents(data)


def held_out_documents(data: InstructionData, n: int = 400) -> list[str]:
    """Text of the same source that is not trained on: of the world, or of a file's held-out share."""
    if data.path != WORLD:
        return [document.text for document in read_documents(data).eval][:n]
    return World(data.seed).held_out_documents(n)


def asked(tasks: list[Task]) -> list[Prompt]:
    """The tasks as prompts."""
    return [(Message("user", task.prompt),) for task in tasks]
