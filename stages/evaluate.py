"""Models side by side: on the same held-out prompts, and on every task that one of them may have learnt or forgotten.

python -m stages.evaluate models.sft=outputs/x/sft models.ppo=outputs/x/ppo reward=outputs/x/reward
python -m stages.evaluate models.before=outputs/x/base models.after=outputs/x/sft data=alpaca data.path=alpaca.json \\
    tasks.web.format=text tasks.web.path=c4.jsonl
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from transformers import PreTrainedTokenizerBase

from evals.harness import Harness, HarnessConfig
from evals.panel import Nested
from evals.subject import Subject
from evals.tasks import QuestionPanel, TextPanel
from instruct.sources import WORLD, prompts
from instruct.tasks import PROMPTS_ALONE, TaskData
from models.chat import Prompt
from models.errors import ConfigError
from models.layout import LayoutConfig
from models.loading import ModelConfig, load_language_model, load_scorer, load_tokenizer, tokenizer_digest
from models.options import INPUT
from reward.ensemble import RewardEnsemble
from stages.best_of import BestOfConfig, best_of
from stages.judged_answers import Scorer, judged, write_samples
from stages.model_results import Findings, model_results
from stages.reward_models import load_ensemble
from stages.task_panel import task_panel
from stages.world_panel import WorldPanel
from train.artifact import Artifact, write_json
from train.config import StageConfig
from train.entry import start
from train.run import Run


@dataclass(kw_only=True)
class EvaluateStage(StageConfig):
    """conf/evaluate.yaml"""

    data: TaskData
    models: dict[str, str] = field(
        default_factory=dict, metadata=INPUT
    )  # what is compared, artefacts or model folders by any name: models.before=... models.after=...
    reference: str | None = None  # the model that the others are compared with; null: sft, before, or the first
    tasks: dict[str, TaskData] = field(default_factory=dict)  # by any name, measured beside: tasks.web.path=...
    harness: HarnessConfig = field(default_factory=HarnessConfig)
    reward: str | None = field(default=None, metadata=INPUT)  # a reward model, for learned scores
    best_of: BestOfConfig = field(default_factory=BestOfConfig)
    per_family: int = 100  # test prompts of each family of the world
    temperature: float = 1.0  # of the sampled responses; greedy ones are made beside them
    max_new_tokens: int = 40
    side_by_side: int = 20  # prompts whose answers the report shows
    layout: LayoutConfig = field(default_factory=LayoutConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.models:
            raise ConfigError("models: name at least one, as in models.before=...")
        self.reference = self.reference or next(n for n in ("sft", "before", *self.models) if n in self.models)
        if self.reference not in self.models:
            raise ConfigError(f"reference={self.reference}: expected a model that is named, as in models.sft=...")
        for name in ("per_family", "max_new_tokens", "side_by_side"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: expected at least 1")
        check_names(self.models, self.tasks)
        self._check_best_of()
        if self.data.has_documents:
            raise ConfigError(f"data.format={self.data.format}: asks nothing; name the file below tasks.<name> instead")

    def _check_best_of(self) -> None:
        if not self.best_of.n:
            return
        self.best_of = replace(
            self.best_of,
            policy=self.best_of.policy or self.reference,
            models=self.best_of.models or ([self.reward] if self.reward else []),
        )
        if self.best_of.policy not in self.models:
            raise ConfigError(
                f"best_of.policy={self.best_of.policy}: expected a model that is named, as in models.sft=..."
            )
        if not self.best_of.models:
            raise ConfigError(
                "best_of.n: picks by a reward model; name one with reward= or several with best_of.models="
            )
        if self.temperature <= 0:
            raise ConfigError(f"temperature={self.temperature}: best_of.n picks among samples; expected above 0")


def check_names(models: dict[str, str], tasks: dict[str, TaskData]) -> None:
    """Raise ConfigError for a name that results could not be found by, and for a task that measures nothing."""
    for name in (*models, *tasks):
        if not re.fullmatch(r"[\w-]+", name):
            raise ConfigError(f"{name}: expected a name of letters, digits, - and _ for a model or a task")
    for name, data in tasks.items():
        if data.format == PROMPTS_ALONE:
            raise ConfigError(f"tasks.{name}.format={data.format}: expected text, or a form of questions with answers")


@dataclass(frozen=True)
class Examination:
    """What every model is given."""

    prompts: list[Prompt]
    world: WorldPanel | None  # where the prompts are the embedded world's
    questions: QuestionPanel | None  # where the prompts have right answers in the data
    tasks: dict[str, QuestionPanel | TextPanel]
    harness: Harness | None
    scorer: Scorer | None
    judges: RewardEnsemble | None  # where the best of several samples is picked


def run(cfg: EvaluateStage) -> Artifact:
    """Ask every model, judge, measure, compare with the reference, and write results.json and samples.jsonl."""
    with Run(cfg, stage="evaluate") as run:
        if run.sealed:
            return run.sealed
        given = examination(run, cfg)
        subjects = [subject(run, name, path, cfg) for name, path in cfg.models.items()]
        found = {model.name: examined(run, model, given, cfg) for model in subjects}
        results = {name: model_results(own, found[cfg.reference], given.world) for name, own in found.items()}
        if given.judges:
            results[cfg.best_of.policy]["best_of"] = picked(run, subjects, given, cfg)
        answers = {name: own.greedy for name, own in found.items()}
        run.write("results.json", lambda path: write_json(path, results))
        shown = (given.prompts, answers, given.questions, cfg.side_by_side)
        run.write("samples.jsonl", lambda path: write_samples(path, *shown))
        if given.world:
            run.write("frontier.json", lambda path: write_json(path, given.world.frontiers(cfg.models)))
        return run.seal("evaluation", metrics={"results": results}, facts={"models": list(cfg.models)})


def examination(run: Run, cfg: EvaluateStage) -> Examination:
    """Read everything that is asked before any model is."""
    world = WorldPanel(cfg.data.seed, cfg.per_family) if cfg.data.path == WORLD else None
    questions = task_panel(run, "data", cfg.data) if cfg.data.has_answers else None
    panel = world or questions
    return Examination(
        prompts=panel.prompts if panel else prompts(cfg.data).train,
        world=world,
        questions=questions,
        tasks={name: task_panel(run, f"tasks.{name}", data) for name, data in cfg.tasks.items()},
        harness=Harness(cfg.harness) if cfg.harness.tasks else None,
        scorer=load_scorer(run.input(cfg.reward, "reward"), ModelConfig(path=cfg.reward)) if cfg.reward else None,
        judges=load_ensemble(cfg.best_of, cfg.layout) if cfg.best_of.n else None,
    )


def subject(run: Run, name: str, path: str, cfg: EvaluateStage) -> Subject:
    """A model under test, as its folder holds it: a base model is given no chat template."""
    folder = run.input(path, "policy")
    tokenizer = load_tokenizer(folder, ModelConfig(path=path))
    model = load_language_model(folder, ModelConfig(path=path))
    return Subject(name, model, tokenizer, max_new_tokens=cfg.max_new_tokens)


def examined(run: Run, model: Subject, given: Examination, cfg: EvaluateStage) -> Findings:
    """What one model answers, greedy and sampled, and how it does on every task."""
    if given.scorer:
        say_other_tokenizer(run, model, given.scorer[1])
    greedy, sampled = (
        judged(model, given.prompts, t, run.generator("samples"), given.world, given.scorer, cfg.layout)
        for t in (0.0, cfg.temperature)
    )
    run.say(f"{model.name}: {len(given.prompts)} prompts answered, greedy and sampled{cut(model, given.prompts)}")
    measured = given.questions.measure(model, greedy.responses) if given.questions else {}
    sampled_measured = given.questions.scores(sampled.responses) if given.questions else {}
    for name, task in given.tasks.items():
        measured |= {f"tasks.{name}.{key}": value for key, value in task.measure(model).items()}
        run.say(f"{model.name}: measured on {name}{cut(model, task.prompts)}")
    benchmarks, rows = given.harness.measure(model) if given.harness else ({}, {})
    return Findings(model, greedy, sampled, measured, sampled_measured, benchmarks, rows)


def picked(run: Run, subjects: Sequence[Subject], given: Examination, cfg: EvaluateStage) -> Nested:
    """What picking the best of n samples of one model by the learned reward gives."""
    model = next(subject for subject in subjects if subject.name == cfg.best_of.policy)
    for member in given.judges.members:
        say_other_tokenizer(run, model, member.tokenizer)
    sampling = (cfg.temperature, run.generator("best of n"))
    found = best_of(model, given.prompts, given.world, given.judges, cfg.best_of, *sampling)
    run.say(f"{model.name}: the best of {', '.join(found)} samples picked")
    return found


def say_other_tokenizer(run: Run, model: Subject, tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer_digest(model.tokenizer) != tokenizer_digest(tokenizer):
        run.say(f"{model.name}: another tokenizer than the reward model's, which scores the text of its answers")


def cut(model: Subject, asked: Sequence[Prompt]) -> str:
    """Says how many prompts were too long for the model."""
    n = sum(not model.fits(prompt) for prompt in asked)
    return f"; {n} lost their beginning to its {model.positions} positions" if n else ""


if __name__ == "__main__":
    start("evaluate", EvaluateStage, run)
