"""Where instructions, prompts and text come from: files, mixtures of them, or the embedded world (`path=world`)."""

from __future__ import annotations

from instruct.mixture import balanced, mixed
from instruct.prompts import Asked, PromptData, read_asked, read_prompts
from instruct.readers import (
    DOCUMENT_FORMATS,
    MIXTURE,
    WORLD,
    WORLD_TEXT,
    InstructionData,
    Part,
    Source,
    read_documents,
    read_instructions,
)
from instruct.records import Instruction
from instruct.world import Task, World
from models.chat import Message, Prompt
from models.errors import ConfigError, DataError, Origin
from models.split import Split, held_out, prompt_key


def instructions(data: InstructionData) -> Split[Instruction]:
    """The instructions of a source or of a mixture, split by prompt."""
    return mixed(data, one_source) if data.format == MIXTURE else one_source(data)


def one_source(data: Part) -> Split[Instruction]:
    """The instructions of one source, split by prompt, and balanced where it says so."""
    found = of_world(data) if data.format == WORLD else read_instructions(data)
    return Split(balanced(found.train, str(data.seed)), found.eval, found.readings) if data.balance else found


def of_world(data: Part) -> Split[Instruction]:
    """Demonstrations of the world. `only` and `balance` know the fields family and kind."""
    if strange := {*data.only, *filter(None, [data.balance])} - {"family", "kind"}:
        raise ConfigError(f"data.only.{sorted(strange)[0]}: the world's demonstrations have the fields family and kind")
    rows = [
        Instruction(
            (Message("user", task.prompt), Message("assistant", answer)),
            Origin(WORLD, i),
            group=str(getattr(task, data.balance or "family")),
        )
        for i, (task, answer) in enumerate(World(data.seed).demonstrations(data.limit or 2000), start=1)
        if all(getattr(task, name) in values for name, values in data.only.items())
    ]
    if not rows:
        raise DataError(f"no demonstration of the world is left by data.only={data.only}")
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


def questions(data: PromptData) -> Split[Asked]:
    """The same with what else their rows say, below the source's system turn where it names one."""
    found = numbered(prompts(data)) if data.path == WORLD else read_asked(data)
    train, held = ([asked.under(data.system) for asked in side] for side in (found.train, found.eval))
    return Split(train, held, found.readings)


def numbered(found: Split[Prompt]) -> Split[Asked]:
    """Prompts of the world by their place on their side; their rows say nothing else."""
    train, held = ([Asked(p, Origin(WORLD, i)) for i, p in enumerate(side, 1)] for side in (found.train, found.eval))
    return Split(train, held, found.readings)


def holds_text(data: Source) -> bool:
    """Whether a source holds plain text, not instructions."""
    return data.format in (*DOCUMENT_FORMATS, WORLD_TEXT)


def documents(data: Source) -> list[str]:
    """Plain text of a source, in its order."""
    if data.format == WORLD_TEXT:
        return World(data.seed).documents(data.limit or 20_000)
    return [document.text for document in read_documents(data).train]


def replay(data: Source) -> list[str]:
    """Text like that of pretraining, to keep what was learnt: of the world, or a file's documents."""
    return World(data.seed).replay(data.limit or 2000) if data.format == WORLD_TEXT else documents(data)


def held_out_documents(data: Source, n: int = 400) -> list[str]:
    """Text of the same source that is not trained on: of the world, or of a file's held-out share."""
    if data.format == WORLD_TEXT:
        return World(data.seed).held_out_documents(n)
    return [document.text for document in read_documents(data).eval][:n]


def asked(tasks: list[Task]) -> list[Prompt]:
    """The tasks as prompts."""
    return [(Message("user", task.prompt),) for task in tasks]
