"""What a model can be measured on: any instruction data, whose replies are right answers, and plain text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import II

from instruct.readers import DOCUMENT_FORMATS, FORMATS, TASK, Source, read_documents, read_instructions
from instruct.records import Document, Instruction
from models.errors import ConfigError, DataError
from models.split import Split, check_choice

PROMPTS_ALONE = "prompts"


@dataclass(kw_only=True)
class TaskData(Source):
    """A source of questions with their answers, of plain text, or of prompts alone."""

    known_formats: ClassVar[tuple[str, ...]] = (*FORMATS, TASK, *DOCUMENT_FORMATS, PROMPTS_ALONE)

    on_unusable: str = "drop"  # empty prompts, and transcripts that do not end with a reply: error, or drop (counted)
    format: str = PROMPTS_ALONE  # of the rows: alpaca, messages, ... as the choices of data=, text; prompts: no answers
    side: str = "eval"  # rows with answers, and documents, that are measured: eval, the held-out ones, or all
    shots: list[int] = field(
        default_factory=list
    )  # measured with so many examples before each question too, from the side of training: [1, 3]
    seed: int = II("seed")  # of the split by prompt: the stage's, so that what training held out is held out

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("side", self.side, ("eval", "all"))
        if self.side == "all" and self.format == PROMPTS_ALONE:
            raise ConfigError("data.side=all: prompts alone have no sides; leave it out, or say data.format=...")
        if any(n < 0 for n in self.shots):
            raise ConfigError(f"data.shots={self.shots}: expected numbers of examples, 0 or more")
        if any(self.shots) and not self.has_answers:
            raise ConfigError(f"data.shots={self.shots}: data.format={self.format} has no examples with answers")
        if any(self.shots) and self.side == "all":
            raise ConfigError(f"data.shots={self.shots}: data.side=all leaves no row as an example; use data.side=eval")

    @property
    def has_answers(self) -> bool:
        return self.has_instructions

    @property
    def has_documents(self) -> bool:
        return self.format in DOCUMENT_FORMATS


def read_task(data: TaskData) -> Split[Instruction] | Split[Document]:
    """The rows of a source, those to be measured as the side of evaluation. Raises DataError where there are none."""
    split = read_documents(data) if data.has_documents else read_instructions(data)
    if data.side == "all":
        return Split([], [*split.train, *split.eval], split.readings)
    if not split.eval:
        raise DataError(
            f"{data.path}: none of its {len(split.train)} records is held out, so there is nothing to measure; "
            "raise eval_fraction, name an eval_path, or say side=all"
        )
    if max(data.shots, default=0) > len(split.train):
        raise DataError(
            f"{data.path}: shots={data.shots}: expected at most the {len(split.train)} of the training side"
        )
    return split
