"""A source of tasks as a panel: which rows are asked, and which may serve as examples."""

from __future__ import annotations

import heapq

from evals.tasks import Question, QuestionPanel, TextPanel, stable_hash
from instruct.records import Instruction
from instruct.tasks import TaskData, read_task
from models.chat import Prompt
from train.run import Run

N_POOL = 256  # examples that those of a question are drawn from


def task_panel(run: Run, name: str, data: TaskData) -> QuestionPanel | TextPanel:
    """What a source measures a model by: its held-out rows. Says which rows were kept."""
    split = read_task(data)
    run.say(f"{name}: {split}")
    if data.has_documents:
        return TextPanel([document.text for document in split.eval])
    shots = tuple(n for n in data.shots if n)
    pool = heapq.nsmallest(N_POOL if shots else 0, [row.messages for row in split.train], key=stable_hash)
    return QuestionPanel(questions(split.eval), pool, shots)


def questions(rows: list[Instruction]) -> list[Question]:
    """What the rows ask, once each: rows that ask the same give it several answers."""
    answers: dict[Prompt, list[str]] = {}
    for row in rows:
        answers.setdefault(row.messages[:-1], []).append(row.messages[-1].content)
    return [Question(prompt, tuple(dict.fromkeys(found))) for prompt, found in answers.items()]
