"""What is known of a reward model, as plain data: what its section of the report is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evals.intervals import Estimate


@dataclass(frozen=True)
class ReliabilityBin:
    """Pairs whose predicted winner had about this probability, and how often it was right."""

    confidence: float
    accuracy: float
    count: int


@dataclass(frozen=True)
class Group:
    """Some of the pairs, and the share of them that the model has the right way around."""

    accuracy: float
    pairs: int


@dataclass(frozen=True)
class SourceGroup(Group):
    """Pairs of one response of a source and one of another."""

    labelled_better: float  # share in which the labels prefer the source's response
    scored_better: float  # share in which the model does


@dataclass(frozen=True)
class JudgesAgree:
    """How often two judges of the training data order a pair alike, and the accuracy that this leaves to reach."""

    share: float
    ceiling: float
    pairs: int


@dataclass(frozen=True)
class AxisQuality:
    """How good the reward model is on one axis, on held-out rankings."""

    axis: str
    accuracy: Estimate
    own_samples: Estimate | None = None  # rankings of the policy's own samples alone
    one_judge: Estimate | None = None  # agreement with each judge of a pair, where several judged
    judges: JudgesAgree | None = None
    tau: Estimate | None = None  # Kendall's, of whole rankings
    top1: Estimate | None = None  # how often the highest score is a best response
    calibration_error: float | None = None
    temperature: float | None = None
    bins: tuple[ReliabilityBin, ...] = ()
    length_correlation: float | None = None
    by_length: Mapping[str, Group] = field(default_factory=dict)  # shorter, similar, longer, longer_wins
    by_strength: Mapping[tuple[float, float], Group] = field(default_factory=dict)  # by the distance of the labels
    by_source: Mapping[str, SourceGroup] = field(default_factory=dict)


@dataclass(frozen=True)
class HackResult:
    """What one hack of the best responses gets on one axis."""

    preferred: Estimate  # share of prompts on which it scores higher than the honest response
    shift: Estimate  # change of the score, in standard deviations of reference completions


@dataclass(frozen=True)
class Hack:
    """A way to look good without being good."""

    name: str
    says: str  # what a model that prefers it rewards
    by_axis: Mapping[str, HackResult]


@dataclass(frozen=True)
class AxesAgree:
    """How often two axes name the same winner of a pair: predicted, and labelled where both are."""

    axes: tuple[str, str]
    pairs: int
    predicted: float
    labelled_pairs: int = 0
    predicted_there: float | None = None
    labelled: float | None = None


@dataclass(frozen=True)
class Told:
    """A response of a mistake, with its score in standard deviations of reference completions."""

    text: str
    source: str
    score: float


@dataclass(frozen=True)
class Mistake:
    """A pair that the model has the wrong way around."""

    axis: str
    prompt: str
    better: Told
    worse: Told
    probability: float  # that the model gives to the worse response


@dataclass(frozen=True)
class RewardQuality:
    """All of it."""

    axes: tuple[AxisQuality, ...]
    hacks: tuple[Hack, ...] = ()
    axes_agree: tuple[AxesAgree, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
