"""Instruction data made by a teacher: a local model, or any endpoint that speaks OpenAI's chat completions.

python -m stages.data generate method=self_instruct data=self_instruct data.path=seeds.jsonl teacher.path=models/chat
python -m stages.data generate method=evolve data=alpaca data.path=a.json teacher.url=http://gpu:8000/v1 teacher.model=m

The rows stand in outputs/<name>/generate/rows.jsonl (data=messages). The teacher's replies are kept beside that folder,
in outputs/<name>/replies.jsonl, as soon as they come: a run that was killed, or is made again with other filters, asks
for nothing twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from instruct.generation.asking import Asking
from instruct.generation.journal import Journal
from instruct.generation.methods import BackTranslate, Evolve, Method, Rephrase, Seed, SelfInstruct
from instruct.generation.rows import Rows, Tally
from instruct.generation.screen import FilterConfig
from instruct.generation.teachers import TeacherConfig, load_teacher
from instruct.generation.templates import Templates
from instruct.readers import DOCUMENT_FORMATS, InstructionData, read_documents
from instruct.sources import instructions
from models.chat import Message
from models.errors import ConfigError, DataError, Unavailable
from models.options import INPUT
from models.reading import Reading
from train.artifact import Artifact
from train.config import StageConfig
from train.digests import file_digest
from train.entry import start
from train.processes import world_size
from train.run import Run

METHODS = ("self_instruct", "evolve", "rephrase", "back_translate")


@dataclass(kw_only=True)
class GenerateStage(StageConfig):
    """conf/generate.yaml"""

    data: InstructionData  # the seeds: its training side, so that nothing is made of held-out prompts
    teacher: TeacherConfig
    filter: FilterConfig = field(default_factory=FilterConfig)
    method: str = MISSING  # self_instruct, evolve, rephrase or back_translate
    candidates: int | None = None  # how many rows are tried; null: one for each seed
    at_once: int = 32  # candidates that are under way side by side; later ones see what earlier ones left
    demonstrations: int = 8  # of self_instruct: tasks shown before a new one, up to a quarter of them made before
    min_score: int = 4  # of back_translate: rating by the teacher, 1 to 5, from which on a pair is kept; 1: no rating
    templates: str | None = field(default=None, metadata=INPUT)  # YAML, in the place of some of templates.yaml's texts

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in METHODS:
            raise ConfigError(f"method={self.method}: expected one of {', '.join(METHODS)}")
        if self.candidates is not None and self.candidates < 1:
            raise ConfigError(f"candidates={self.candidates}: expected at least 1, or null for one for each seed")
        for name in ("at_once", "demonstrations"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: expected at least 1")
        if not 1 <= self.min_score <= 5:
            raise ConfigError(f"min_score={self.min_score}: expected 1 to 5")
        if world_size() > 1:
            raise ConfigError("generate runs in one process; ask for more at once with teacher.concurrency")


def run(cfg: GenerateStage) -> Artifact:
    """Ask, screen, and seal the rows with the counts of all that became none."""
    with Run(cfg, stage="generate") as run:
        if run.sealed:
            return run.sealed
        templates = Templates(cfg.templates)
        found, readings = seeds(cfg)
        run.say("; ".join([*map(str, readings), f"{len(found)} seeds"]))
        digests = {name: entry["digest"] for name, entry in run.record["inputs"].items() if name.startswith("teacher.")}
        folder = run.input(cfg.teacher.path, "policy") if cfg.teacher.path else None
        teacher = load_teacher(cfg.teacher, folder, digests)
        replies, settled = run.folder.parent / "replies.jsonl", run.folder / "failed.jsonl"
        asking = Asking(teacher, Journal(replies), Journal(settled), cfg.teacher.patience)
        if asking.replies.torn:
            run.say(f"{replies}: its last line was cut off by a kill; that request is asked again")
        made = Rows(make_method(cfg, found, templates), cfg.method, asking, cfg.seed)
        n = cfg.candidates or len(found)
        for first in range(0, n, cfg.at_once):
            made.make(range(first, min(first + cfg.at_once, n)))
            run.say(f"{made.tally}; {asking.n_asked} requests sent")
        check(made.tally, teacher.name, settled, outage=asking.outage)
        run.write("rows.jsonl", lambda path: write_lines(path, made.rows))
        run.write("dropped.jsonl", lambda path: write_lines(path, made.dropped))
        facts = {
            "teacher": teacher.name,
            "seeds": len(found),
            "readings": [reading.counts() for reading in readings],
            "rows_digest": file_digest(run.folder / "rows.jsonl"),
        }
        return run.seal("data", metrics=made.tally.counts(), facts=facts)


def seeds(cfg: GenerateStage) -> tuple[list[Seed], tuple[Reading, ...]]:
    """What is made into something new: conversations or, for back_translate, texts; and how they were read."""
    if cfg.method == "back_translate" and cfg.data.format in DOCUMENT_FORMATS:
        texts = read_documents(cfg.data)
        return [Seed((Message("assistant", text.text),), text.origin) for text in texts.train], texts.readings
    split = instructions(cfg.data)
    return [Seed(instruction.messages, instruction.origin) for instruction in split.train], split.readings


def make_method(cfg: GenerateStage, found: list[Seed], templates: Templates) -> Method:
    """The method that the configuration names."""
    if cfg.method == "self_instruct":
        return SelfInstruct(found, templates, cfg.filter, cfg.demonstrations)
    if cfg.method == "back_translate":
        return BackTranslate(found, templates, cfg.filter, cfg.min_score)
    return (Evolve if cfg.method == "evolve" else Rephrase)(found, templates, cfg.filter)


def check(tally: Tally, teacher: str, settled: Path, *, outage: bool) -> None:
    """Raise where there is no row: Unavailable where nothing was answered (it is asked again), DataError elsewhere."""
    if not tally.requests and outage:
        settled.unlink(missing_ok=True)
        raise Unavailable(f"{teacher}: no candidate was answered; {tally}; the same command asks again")
    if not tally.kept:
        raise DataError(
            f"no row is left: {tally}; see filter.* and templates=, the replies are kept and not paid again"
        )


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """JSON Lines."""
    with path.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    start("generate", GenerateStage, run)
