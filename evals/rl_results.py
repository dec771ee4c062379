"""What a stage of reinforcement learning saw on its way, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Curve = Sequence[tuple[float, float]]  # (rollout, value)


@dataclass(frozen=True)
class Look:
    """The policy after some rollouts, asked the held-out prompts."""

    iteration: int
    kl: float  # nats per response
    scores: Mapping[str, float]  # mean by judge: proxy, referee, gold
    errors: Mapping[str, float]  # standard errors of these
    kept: bool = False  # the stage's artefact holds this policy


@dataclass(frozen=True)
class Told:
    """A response and what each judge gave it."""

    text: str
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Then:
    """A held-out prompt, and what the policy answered at the first look and at the last."""

    prompt: str
    first: Told
    last: Told


@dataclass(frozen=True)
class RLCourse:
    """A run of reinforcement learning."""

    stage: str
    curves: Mapping[str, Curve]  # by the names of the log
    looks: tuple[Look, ...] = ()
    kl: Mapping[int, Sequence[float]] = field(default_factory=dict)  # rollout: nats of each of its responses
    seconds: Mapping[str, float] = field(default_factory=dict)  # part: of all rollouts
    samples: tuple[Then, ...] = ()
