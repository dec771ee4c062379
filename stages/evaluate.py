"""Every model of an experiment on the same held-out prompts.

python -m stages.evaluate models.sft=outputs/x/sft models.ppo=outputs/x/ppo reward=outputs/x/reward
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import PreTrainedModel

from evals.panel import Answers, Nested, comparison, estimates, wins
from evals.subject import Response, Subject
from instruct.prompts import PromptData
from instruct.sources import WORLD, prompts
from models.chat import ChatFormat, Prompt
from models.errors import ConfigError
from models.layout import LayoutConfig, Tree
from models.loading import ModelConfig, load_language_model, load_scorer, load_tokenizer, tokenizer_digest
from models.options import INPUT
from models.scorer import AXES, score_trees
from stages.world_panel import WorldPanel
from train.artifact import Artifact, write_json
from train.entry import start
from train.run import Run, StageConfig


@dataclass
class Models:
    """What is compared: artefacts or model folders by role; what is not named is left out."""

    base: str | None = field(default=None, metadata=INPUT)
    sft: str | None = field(default=None, metadata=INPUT)
    ppo: str | None = field(default=None, metadata=INPUT)
    dpo: str | None = field(default=None, metadata=INPUT)

    def named(self) -> dict[str, str]:
        return {name: path for name, path in vars(self).items() if path is not None}


@dataclass(kw_only=True)
class EvaluateStage(StageConfig):
    """conf/evaluate.yaml"""

    data: PromptData
    models: Models = field(default_factory=Models)
    reference: str = "sft"  # the model that the others are compared with
    reward: str | None = field(default=None, metadata=INPUT)  # a reward model, for learned scores
    per_family: int = 100  # test prompts of each family of the world
    temperature: float = 1.0  # of the sampled responses; greedy ones are made beside them
    max_new_tokens: int = 40
    side_by_side: int = 20  # prompts whose answers the report shows
    layout: LayoutConfig = field(default_factory=LayoutConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reference not in self.models.named():
            raise ConfigError(f"reference={self.reference}: expected a model that is named, as in models.sft=...")
        for name in ("per_family", "max_new_tokens", "side_by_side"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: expected at least 1")


def run(cfg: EvaluateStage) -> Artifact:
    """Ask every model, judge, compare with the reference, and write results.json and samples.jsonl."""
    with Run(cfg, stage="evaluate") as run:
        if run.sealed:
            return run.sealed
        world = WorldPanel(cfg.data.seed, cfg.per_family) if cfg.data.path == WORLD else None
        asked = world.prompts if world else prompts(cfg.data).train
        subjects = {name: subject(run, name, path, cfg) for name, path in cfg.models.named().items()}
        scorer = load_scorer(run.input(cfg.reward, "reward"), ModelConfig(path=cfg.reward)) if cfg.reward else None
        for name, model in subjects.items() if scorer else ():
            if tokenizer_digest(model.tokenizer) != tokenizer_digest(scorer[1]):
                run.say(f"{name}: another tokenizer than the reward model's, which scores the text of its answers")
        answers: dict[str, dict[str, Answers]] = {}
        for name, model in subjects.items():
            answers[name] = {
                mode: judged(model, asked, temperature, run, world, scorer, cfg)
                for mode, temperature in (("greedy", 0.0), ("sampled", cfg.temperature))
            }
            run.say(f"{name}: {len(asked)} prompts answered, greedy and sampled")
        results = {name: row(name, subjects, answers, world, cfg) for name in subjects}
        run.write("results.json", lambda path: write_json(path, results))
        run.write("samples.jsonl", lambda path: write_samples(path, asked, answers, cfg.side_by_side))
        if world:
            run.write("frontier.json", lambda path: write_json(path, world.frontiers(cfg.models.named())))
        return run.seal("evaluation", metrics={"results": results})


def subject(run: Run, name: str, path: str, cfg: EvaluateStage) -> Subject:
    """A model under test, as its folder holds it: a base model is given no chat template."""
    folder = run.input(path, "policy")
    tokenizer = load_tokenizer(folder, ModelConfig(path=path))
    model = load_language_model(folder, ModelConfig(path=path))
    return Subject(name, model, tokenizer, max_new_tokens=cfg.max_new_tokens)


def judged(
    model: Subject,
    asked: Sequence[Prompt],
    temperature: float,
    run: Run,
    world: WorldPanel | None,
    scorer: tuple[PreTrainedModel, object] | None,
    cfg: EvaluateStage,
) -> Answers:
    """Responses with their gold and learned scores. A model of another tokenizer is scored by its text."""
    responses = model.respond(asked, temperature=temperature, generator=run.generator("samples"))
    gold = world.gold(responses) if world else None
    reward = None
    if scorer is not None:
        reward = score_trees(scorer[0], answer_trees(ChatFormat(scorer[1]), asked, responses), cfg.layout)
    return Answers(responses, gold, reward)


def answer_trees(chat: ChatFormat, asked: Sequence[Prompt], responses: Sequence[Response]) -> list[Tree]:
    """Prompts with their answers in the reward model's own tokens; an empty answer is its end alone."""
    pairs = zip(asked, responses, strict=True)
    return [Tree.of(chat.prompt(p), [chat.response(r.text, ended=r.ended) or chat.end_ids]) for p, r in pairs]


def row(
    name: str,
    subjects: dict[str, Subject],
    answers: dict[str, dict[str, Answers]],
    world: WorldPanel | None,
    cfg: EvaluateStage,
) -> Nested:
    """All of one model's estimates: greedy at the top, sampled below `sampled`, paired gains below `gain`."""
    model, reference = subjects[name], subjects[cfg.reference]
    own, other = answers[name], answers[cfg.reference]
    comparable = tokenizer_digest(model.tokenizer) == tokenizer_digest(reference.tokenizer)
    drift = None
    if comparable:
        sampled = own["sampled"].responses
        drift = model.logprobs(sampled) - reference.logprobs(sampled)
    found = estimates(own["greedy"], drift)
    found["sampled"] = estimates(own["sampled"], drift)
    if name != cfg.reference:
        found["gain"] = comparison(own["greedy"], other["greedy"])
        found["sampled"]["gain"] = comparison(own["sampled"], other["sampled"])
        for mode, place in (("greedy", found), ("sampled", found["sampled"])):
            if (rate := wins(own[mode], other[mode])) is not None:
                place["win_rate"] = rate.as_dict()
    if world:
        found |= world.extras(model, own["greedy"])
        found["sampled"] |= world.subsets(own["sampled"])
        if name != cfg.reference:
            found["gain"] |= world.subset_gains(own["greedy"], other["greedy"])
            found["sampled"]["gain"] |= world.subset_gains(own["sampled"], other["sampled"])
    return found


def write_samples(path: Path, asked: Sequence[Prompt], answers: dict[str, dict[str, Answers]], n: int) -> None:
    """The same prompts answered by every model: the greedy answer and its scores."""
    shown_rows = sorted(random.Random(0).sample(range(len(asked)), min(n, len(asked))))
    with path.open("w", encoding="utf-8") as file:
        for i in shown_rows:
            line = {"prompt": "\n".join(m.content for m in asked[i])}
            line["answers"] = {name: shown(found["greedy"], i) for name, found in answers.items()}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def shown(answers: Answers, i: int) -> dict[str, object]:
    """One answer with its gold scores, its learned ones where there is no gold."""
    scores = answers.gold if answers.gold is not None else answers.reward
    listed = dict(zip(AXES, scores[i].tolist(), strict=True)) if scores is not None else {}
    return {"text": answers.responses[i].text, "scores": listed}


if __name__ == "__main__":
    start("evaluate", EvaluateStage, run)
