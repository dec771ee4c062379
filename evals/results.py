"""What an experiment found, as plain data: what the report and its verdict are made of.

Metrics are named as in results.json: `gold.helpful`, `reward.mean`, `kl`, `zero_shot`, ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from evals.intervals import Estimate
from evals.reward_results import RewardQuality
from evals.rl_results import RLCourse


@dataclass(frozen=True)
class Metric:
    """How a metric is named, read and printed. `better` is None where neither direction is.

    A metric that is a comparison in itself has its value for "no difference" in `even`.
    """

    key: str
    label: str
    better: Literal["higher", "lower"] | None
    digits: int = 2
    unit: str = ""
    even: float | None = None


GOLD_AXES = (
    Metric("gold.helpful", "helpful", "higher"),
    Metric("gold.honest", "honest", "higher"),
    Metric("gold.harmless", "harmless", "higher"),
    Metric("gold.mean", "mean", "higher"),
)
METRICS = (
    *GOLD_AXES,
    Metric("win_rate", "win rate", "higher", even=0.5),
    Metric("reward.mean", "learned reward", "higher"),
    Metric("zero_shot", "zero-shot", "higher"),
    Metric("few_shot", "few-shot", "higher"),
    Metric("perplexity", "perplexity", "lower"),
    Metric("truncated", "truncated", "lower"),
    Metric("length", "length", None, 1, "tokens"),
    Metric("kl", "KL", None, 1, "nats"),
)
QUESTION_METRICS = (  # of answers whose right ones are known
    Metric("exact_match", "exact match", "higher", 3),
    Metric("token_f1", "token F1", "higher", 3),
    Metric("rouge_l", "ROUGE-L", "higher", 3),
    Metric("chrf", "chrF", "higher", 3),
)
TASK_METRICS = (
    *QUESTION_METRICS,
    Metric("perplexity", "perplexity", "lower"),
    Metric("bits_per_byte", "bits per byte", "lower"),
    Metric("ended", "ended by itself", "higher"),
    Metric("length", "length", None, 1, "tokens"),
)


@dataclass(frozen=True)
class ModelResult:
    """One model's numbers, and how they differ from its baseline's on the same prompts."""

    name: str
    metrics: Mapping[str, Estimate]
    baseline: str | None = None  # name of the model that `gains` compares with
    gains: Mapping[str, Estimate] = field(default_factory=dict)  # paired differences, ours - baseline's

    def gain(self, metric: Metric) -> Estimate | None:
        """By how much this model's metric differs from its baseline's, or from "no difference"."""
        own = self.metrics.get(metric.key)
        if metric.even is None or own is None:
            return self.gains.get(metric.key)
        return Estimate(own.mean - metric.even, own.low - metric.even, own.high - metric.even, own.n)


Curve = Sequence[tuple[float, float]]  # (step, value)


@dataclass(frozen=True)
class StageRecord:
    """One stage of the lineage. Curves named `eval_x` are drawn with `x`."""

    name: str
    seconds: float
    peak_bytes: int
    digest: str
    parents: tuple[str, ...] = ()
    config: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    time_split: Mapping[str, float] = field(default_factory=dict)  # part -> seconds


@dataclass(frozen=True)
class FrontierPoint:
    """A checkpoint: how far it went from its start, and what the learned and the gold reward make of it."""

    kl: float  # nats per sequence
    proxy: float
    gold: float
    step: int | None = None
    kept: bool = False  # the checkpoint that the stage's artefact holds


@dataclass(frozen=True)
class Frontier:
    """The path of one training run through reward and KL."""

    name: str
    points: tuple[FrontierPoint, ...]


@dataclass(frozen=True)
class EnsembleAxis:
    """How several reward models do on one axis of labelled rankings, read as one and one by one."""

    axis: str
    accuracy: Estimate
    members: tuple[Estimate, ...]
    gain: Estimate  # paired: the ensemble's accuracy less the mean of its members'
    error_auroc: Mapping[str, Estimate] = field(default_factory=dict)  # how well a doubt finds the wrong pairs


@dataclass(frozen=True)
class BestOfPoint:
    """What picking the best of n samples by the learned reward gives."""

    n: int
    kl: float
    proxy: Estimate
    gold: Estimate | None


@dataclass(frozen=True)
class TaskTable:
    """What was measured on one task. `told`: the keys of the metrics that a verdict speaks of."""

    name: str
    metrics: tuple[Metric, ...]
    told: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """A model's response and its scores, axis -> value."""

    text: str
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One held-out prompt and what each model answered, model -> answer."""

    prompt: str
    answers: Mapping[str, Answer]
    kind: str = ""
    right: str = ""  # a right answer, where the data holds one


@dataclass(frozen=True)
class Alert:
    """Something that a stage noticed and a reader should know."""

    stage: str
    text: str
    severe: bool = False


@dataclass(frozen=True)
class Report:
    """Everything that the report shows. Empty parts are left out of the page, and said to be."""

    title: str
    models: tuple[ModelResult, ...]
    stages: tuple[StageRecord, ...] = ()
    frontiers: tuple[Frontier, ...] = ()
    reward_quality: RewardQuality | None = None
    rl: tuple[RLCourse, ...] = ()
    ensemble: tuple[EnsembleAxis, ...] = ()
    best_of: Mapping[str, tuple[BestOfPoint, ...]] = field(default_factory=dict)  # by the model that is sampled
    samples: tuple[Sample, ...] = ()
    alerts: tuple[Alert, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)  # seed, date, hardware, ...
    metrics: tuple[Metric, ...] = METRICS
    tasks: tuple[TaskTable, ...] = ()

    @property
    def of_stages_alone(self) -> bool:
        """No model was evaluated yet: what the stages themselves measured is all there is."""
        return not self.models and (self.reward_quality is not None or bool(self.rl))

    @property
    def of_tasks(self) -> tuple[Metric, ...]:
        """The metrics of tasks that a verdict speaks of, under the names of their tasks."""
        return tuple(
            replace(m, label=f"{table.name}: {m.label}")
            for table in self.tasks
            for m in table.metrics
            if m.key in table.told
        )


def estimates(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Estimate]:
    """The estimates of a nested results.json object, by dotted name; what is no estimate is left out."""
    if tree.keys() >= {"mean", "low", "high", "n"}:
        return {prefix: Estimate(tree["mean"], tree["low"], tree["high"], tree["n"])}
    found: dict[str, Estimate] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= estimates(value, f"{prefix}.{name}" if prefix else name)
    return found


def nested(found: Mapping[str, Any]) -> dict[str, Any]:
    """The same as a tree: values by dotted name, each in the objects that its name leads through."""
    tree: dict[str, Any] = {}
    for name, value in found.items():
        *places, last = name.split(".")
        inner = tree
        for place in places:
            inner = inner.setdefault(place, {})
        inner[last] = value
    return tree
