"""Where the reward of reinforcement learning comes from: models, functions and remote scorers, each with a weight."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from models.errors import ConfigError
from models.http import Limits, check_address, secret
from models.loading import ModelConfig
from models.options import CODE, INPUT, RUNTIME
from models.scorer import AXES
from reward.classifier import READS
from reward.ensemble import MembersConfig
from reward.members import SCORE


@dataclass(kw_only=True)
class LearnedReward(ModelConfig):
    """A reward model, or any sequence classifier."""

    path: str | None = field(
        default=None, metadata=INPUT
    )  # a reward artefact, a folder of any sequence classifier, or a hub name
    label: str | None = None  # of a model that scores several things, the one that counts: POSITIVE, harmless, ...
    reads: str = "reply"  # what a classifier without a chat template is given: reply (alone), or pair (prompt, reply)

    def check(self, option: str) -> None:
        """Raise ConfigError where what stands at `option` cannot be."""
        if self.reads not in READS:
            raise ConfigError(f"{option}.reads={self.reads}: expected one of {', '.join(READS)}")
        if self.label is not None and not self.label:
            raise ConfigError(f"{option}.label is empty; name a label of the model, or say null")


@dataclass(kw_only=True)
class RewardTerm(LearnedReward):
    """One more source beside the reward model: a model (`path`), a function, or a remote scorer (`url`)."""

    weight: float = 1.0  # of this term in the reward; below 0: what it scores is unwanted; 0: it is logged alone
    function: str | None = field(default=None, metadata=CODE)  # a Python function, as TRL's: my_rewards.brevity
    url: str | None = None  # a scorer that takes prompts and completions and gives scores: http://host:8000/score
    key_env: str = field(default="REWARD_API_KEY", metadata=RUNTIME)  # the environment variable with the url's key
    batch_size: int = field(default=32, metadata=RUNTIME)  # responses in one request to url
    concurrency: int = field(default=4, metadata=RUNTIME)  # requests under way at url at once
    limits: Limits = field(default_factory=Limits, metadata=RUNTIME)  # of a request to url

    def check(self, option: str) -> None:
        super().check(option)
        if sum(source is not None for source in (self.path, self.function, self.url)) != 1:
            raise ConfigError(f"{option}: say exactly one of {option}.path=, {option}.function= and {option}.url=")
        if self.path is None and (self.label is not None or self.reads != READS[0]):
            raise ConfigError(f"{option}.label and {option}.reads: are of a path; this term has none")
        if not math.isfinite(self.weight):
            raise ConfigError(f"{option}.weight={self.weight}: expected a finite number")
        if self.url is not None:
            check_address(f"{option}.url", self.url)
            secret(f"{option}.key_env", self.key_env)
        for name in ("batch_size", "concurrency"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{option}.{name}={getattr(self, name)}: expected at least 1")


@dataclass(kw_only=True)
class RewardSources(LearnedReward, MembersConfig):
    """One reward model (`path`), several read as one (`models`), or none; and further terms by name."""

    also: dict[str, RewardTerm] = field(default_factory=dict)  # terms by any name: reward.also.brevity.function=...

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        MembersConfig.__post_init__(self)
        self.check("reward")
        for name, term in self.also.items():
            if name in (*AXES, *SCORE):
                raise ConfigError(f"reward.also.{name}: a reward model's own score has that name; choose another")
            term.check(f"reward.also.{name}")

    def check(self, option: str) -> None:
        super().check(option)
        if self.path is not None and self.models:
            raise ConfigError(f"{option}.path and {option}.models: say one of them")
        if self.paths:
            return
        if not self.also:
            raise ConfigError(
                f"{option}.path has no value; say {option}.path=..., {option}.models=[...], or a source by any name, "
                f"as {option}.also.<name>.function=..."
            )
        if self.label is not None:
            raise ConfigError(f"{option}.label={self.label}: is of {option}.path or {option}.models; there is neither")

    @property
    def paths(self) -> list[str]:
        """The reward models that are read as one."""
        return self.models if self.path is None else [self.path]

    def but_path(self, path: str) -> RewardSources:
        """The same way to load, of one reward model alone."""
        return replace(self, path=path, models=[], label=None, also={})
