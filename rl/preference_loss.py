"""Which preference loss, its numbers, and how its β moves: what conf/loss/*.yaml says."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

from models.errors import ConfigError
from rl.preference import LENGTH_NORMALISED, PAIRWISE, REFERENCE_FREE, options_of

LISTWISE, KTO = "listwise", "kto"
READS = {  # the options that each loss reads
    **{
        name: options_of(name) | {"pairs", "nll"} | (set() if name in LENGTH_NORMALISED else {"length_normalised"})
        for name in PAIRWISE
    },
    LISTWISE: {"beta", "length_normalised", "ties", "nll"},
    KTO: {"beta", "weight_desirable", "weight_undesirable"},
}
ALWAYS_READ = {"name", "beta", "beta_schedule", "beta_end"}
BETA_SCHEDULES: dict[str, Callable[[float], float]] = {  # share of the way from beta to beta_end
    "constant": lambda done: 0.0,
    "linear": lambda done: done,
    "cosine": lambda done: 0.5 * (1.0 - math.cos(math.pi * done)),
}


@dataclass
class PreferenceLoss:
    """conf/loss/*.yaml. Defaults of the numbers are those of the papers; a loss reads those that its formula has."""

    name: str = "sigmoid"
    beta: float = 0.1  # pull to the reference, in the units of the loss (sums, or means per token); orpo: its lambda
    beta_schedule: str = "constant"  # linear or cosine: from beta before the first step to beta_end after the last
    beta_end: float | None = None  # where a schedule ends; read unless it is constant
    length_normalised: bool = False  # log-probabilities per token instead of sums
    label_smoothing: float = 0.0  # cdpo and robust: share of labels that are wrong
    gamma: float = 1.0  # simpo: target margin
    alpha: float = 1.0  # rpo: weight of the NLL of the chosen response
    weight_desirable: float = 1.0  # kto
    weight_undesirable: float = 1.0  # kto
    pairs: str = "all"  # of a ranking: all strict pairs, or best_worst
    ties: str = "error"  # listwise, rankings with ties: error, drop, or strict (ranked against what is below alone)
    nll: float = 0.0  # weight of the mean token NLL of each ranking's best response, beside the loss

    def __post_init__(self) -> None:
        if self.name not in READS:
            raise ConfigError(f"loss.name={self.name}: expected one of {', '.join(READS)} (sigmoid is DPO)")
        self._check_ranges()
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default and field.name not in READS[self.name] | ALWAYS_READ:
                raise ConfigError(f"loss.{field.name}={value}: not read by loss={self.name}; {_who_reads(field.name)}")
        if (self.beta_end is None) != (self.beta_schedule == "constant"):
            raise ConfigError(
                f"loss.beta_schedule={self.beta_schedule}, loss.beta_end={self.beta_end}: a schedule needs an end, and "
                "an end a schedule of linear or cosine"
            )

    def _check_ranges(self) -> None:
        for name in ("beta", "beta_end"):
            value = getattr(self, name)
            _require(value is None or 0 < value < math.inf, name, value, "a number above 0")
        _require(0 <= self.label_smoothing < 0.5, "label_smoothing", self.label_smoothing, "in [0, 0.5)")
        for name in ("gamma", "alpha", "nll", "weight_desirable", "weight_undesirable"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, name, value, "0 or more")
        _require(self.beta_schedule in BETA_SCHEDULES, "beta_schedule", self.beta_schedule, " or ".join(BETA_SCHEDULES))
        _require(self.pairs in ("all", "best_worst"), "pairs", self.pairs, "all or best_worst")
        _require(self.ties in ("error", "drop", "strict"), "ties", self.ties, "error, drop or strict")

    @property
    def has_reference(self) -> bool:
        """Whether the formula asks how likely the reference finds a response."""
        return self.name not in REFERENCE_FREE

    @property
    def numbers(self) -> dict[str, float]:
        """What a loss of pairs takes beside β."""
        return {name: getattr(self, name) for name in options_of(self.name) - {"beta"}}

    def beta_at(self, progress: float) -> float:
        """β when a share `progress` of the steps is done."""
        end = self.beta if self.beta_end is None else self.beta_end
        return self.beta + (end - self.beta) * BETA_SCHEDULES[self.beta_schedule](progress)


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"loss.{name}={value}: expected {expected}")


def _who_reads(option: str) -> str:
    readers = [name for name, options in READS.items() if option in options]
    return f"loss={' or '.join(readers)} reads it"
