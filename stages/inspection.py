"""What stages.audit and stages.filter share: reading a source and marking its rows, by text, models and judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from instruct.audit.checks import Findings, Limits, check
from instruct.audit.contamination import read_evaluation_prompts
from instruct.audit.judging import judgements
from instruct.audit.kinds import Marks
from instruct.audit.losses import answer_trees, bare_trees, difficulties, losses, plain_trees, text_start
from instruct.audit.outliers import high_outliers, lowest
from instruct.audit.source import read_source
from instruct.audit.toxicity import listed_words
from instruct.readers import InstructionData
from models.chat import ChatFormat
from models.errors import ConfigError
from models.layout import LayoutConfig
from models.loading import ModelConfig, load_language_model, load_scorer, load_tokenizer, max_positions
from models.options import CODE, INPUT
from models.plugins import named_function
from models.scorer import AXES, score_trees
from train.config import StageConfig
from train.run import Run


@dataclass
class OptionalModel(ModelConfig):
    """A model that is used where its path is given."""

    path: str | None = field(default=None, metadata=INPUT)  # an artefact, a transformers folder or a hub name


@dataclass(kw_only=True)
class Inspection(StageConfig):
    """What is looked at, and with what. The rows of data.eval_path count among those of `against`."""

    data: InstructionData
    against: list[str] = field(default_factory=list, metadata=INPUT)  # evaluation files: their prompts mark rows
    limits: Limits = field(default_factory=Limits)
    toxicity: str | None = field(
        default=None, metadata=CODE
    )  # module:function, texts -> scores in [0, 1]; null: a short list of words
    judge: str | None = field(
        default=None, metadata=CODE
    )  # module:function, (prompt, answer) -> a score in [0, 1], or None
    judge_seconds: float = 30.0  # that one call of the judge may take
    model: OptionalModel = field(default_factory=OptionalModel)
    reward: OptionalModel = field(default_factory=OptionalModel)
    layout: LayoutConfig = field(default_factory=LayoutConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data.eval_fraction:
            raise ConfigError(f"data.eval_fraction={self.data.eval_fraction}: every row is looked at; leave it at 0")
        if not self.judge_seconds > 0:
            raise ConfigError(f"judge_seconds={self.judge_seconds}: must be above 0")


def inspect(run: Run, cfg: Inspection) -> Findings:
    """Read, look at every row, and say what was found."""
    scorer = named_function("toxicity", cfg.toxicity) if cfg.toxicity else listed_words
    judge = named_function("judge", cfg.judge) if cfg.judge else None
    model = run.input(cfg.model.path, "policy") if cfg.model.path else None
    reward = run.input(cfg.reward.path, "reward") if cfg.reward.path else None
    source = read_source(cfg.data)
    run.say(str(source.reading))
    against = [*cfg.against, *([cfg.data.eval_path] if cfg.data.eval_path else [])]
    evaluation = read_evaluation_prompts(against, cfg.limits.ngram, cfg.data.on_bad_row, cfg.data.on_unusable)
    found = check(source, evaluation if against else None, scorer, cfg.limits, cfg.seed)
    found.notes += [str(reading) for reading in evaluation.readings if reading.n_dropped]
    if model:
        add_losses(found, model, cfg)
    if reward:
        add_rewards(found, reward, cfg)
    if judge:
        asked = judgements(found.items, judge, cfg.judge_seconds)
        found.measures["judge"] = asked.scores
        low = [i for i, score in enumerate(asked.scores) if score is not None and score < cfg.limits.doubtful]
        found.marks["doubtful"] = worst_first(low, asked.scores, "the judge gives {:.2f}")
        found.notes += [f"judge: {failure}, {n} times" for failure, n in asked.failures.items()]
    for note in found.notes:
        run.say(note)
    return found


def add_losses(found: Findings, folder: str, cfg: Inspection) -> None:
    """Loss and difficulty of each answer under the model, and the marks that follow from them."""
    model, tokenizer = load_language_model(folder, cfg.model), load_tokenizer(folder, cfg.model)
    length = cfg.layout.max_length or max_positions(model)
    if tokenizer.chat_template is None:
        trees = plain_trees(found.items, tokenizer, length)
        found.notes.append(f"{cfg.model.path}: has no chat template, so its losses are those of plain text")
    else:
        trees = answer_trees(found.items, ChatFormat(tokenizer), length)
    start = text_start(tokenizer)
    given = losses(model, trees, cfg.layout)
    difficulty = difficulties(given, losses(model, bare_trees(trees, start), cfg.layout))
    found.measures |= {"loss": given, "difficulty": difficulty}
    high = high_outliers(given, cfg.limits.outlier)
    useless = [i for i, ratio in enumerate(difficulty) if ratio is not None and ratio >= 1]
    found.marks["high_loss"] = worst_first(high, given, "{:.2f} nats a token", most=True)
    found.marks["misaligned"] = worst_first(useless, difficulty, "IFD {:.2f}", most=True)


def add_rewards(found: Findings, folder: str, cfg: Inspection) -> None:
    """The reward model's scores of each answer on its axes, and the lowest on each."""
    model, tokenizer = load_scorer(folder, cfg.reward)
    length = cfg.layout.max_length or max_positions(model)
    trees = answer_trees(found.items, ChatFormat(tokenizer), length, ended=True)
    known = [i for i, tree in enumerate(trees) if tree is not None]
    scores = dict(zip(known, score_trees(model, [trees[i] for i in known], cfg.layout).tolist(), strict=True))
    for axis, name in enumerate(AXES):
        column = [scores[i][axis] if i in scores else None for i in range(len(trees))]
        found.measures[name] = column
        low = lowest(column, cfg.limits.lowest)
        found.marks[f"low_{name}"] = worst_first(low, column, "{:+.2f} standard deviations")


def worst_first(marked: Sequence[int], values: Sequence[float | None], said: str, *, most: bool = False) -> Marks:
    """Marks that say their value, the lowest first, or the highest where `most` is worst."""
    return {i: said.format(values[i]) for i in sorted(marked, key=lambda i: values[i], reverse=most)}
