"""What a model answers, with what judges make of it; and answers of several models side by side."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evals.panel import Answers
from evals.subject import Response, Subject
from evals.tasks import QuestionPanel
from models.chat import ChatFormat, Prompt
from models.layout import LayoutConfig, Tree
from models.scorer import AXES, score_trees
from stages.world_panel import WorldPanel

Scorer = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def judged(
    model: Subject,
    asked: Sequence[Prompt],
    temperature: float,
    generator: torch.Generator,
    world: WorldPanel | None,
    scorer: Scorer | None,
    layout: LayoutConfig,
) -> Answers:
    """Responses with their gold and learned scores. A model of another tokenizer is scored by its text."""
    responses = model.respond(asked, temperature=temperature, generator=generator)
    gold = world.gold(responses) if world else None
    reward = None
    if scorer is not None:
        reward = score_trees(scorer[0], answer_trees(ChatFormat(scorer[1]), asked, responses), layout)
    return Answers(responses, gold, reward)


def answer_trees(chat: ChatFormat, asked: Sequence[Prompt], responses: Sequence[Response]) -> list[Tree]:
    """Prompts with their answers in the reward model's own tokens; an empty answer is its end alone."""
    pairs = zip(asked, responses, strict=True)
    return [Tree.of(chat.prompt(p), [chat.response(r.text, ended=r.ended) or chat.end_ids]) for p, r in pairs]


def write_samples(
    path: Path, asked: Sequence[Prompt], answers: Mapping[str, Answers], questions: QuestionPanel | None, n: int
) -> None:
    """The same prompts answered by every model, with the scores, and the right answer where the data holds one."""
    shown_rows = sorted(random.Random(0).sample(range(len(asked)), min(n, len(asked))))
    with path.open("w", encoding="utf-8") as file:
        for i in shown_rows:
            line: dict[str, object] = {"prompt": "\n".join(m.content for m in asked[i])}
            if questions:
                line["right"] = questions.questions[i].answers[0]
            line["answers"] = {name: shown(found, i) for name, found in answers.items()}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def shown(answers: Answers, i: int) -> dict[str, object]:
    """One answer with its gold scores, its learned ones where there is no gold."""
    scores = answers.gold if answers.gold is not None else answers.reward
    listed = dict(zip(AXES, scores[i].tolist(), strict=True)) if scores is not None else {}
    return {"text": answers.responses[i].text, "scores": listed}
