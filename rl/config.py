"""What can be turned in reinforcement learning: `rl.*` of `python -m stages.ppo`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from models.errors import ConfigError, check_choice
from models.scorer import AXES, AxisWeights
from rl.alerts import AlertConfig
from rl.algorithms import ALGORITHMS, Algorithm
from rl.kl import KL_ESTIMATORS, AdaptiveKL, FixedKL, Lagrangian
from rl.losses import AGGREGATIONS
from rl.samplers import SamplerConfig


@dataclass
class KLConfig:
    """The pull towards the reference policy. KL is in nats per response."""

    coef: float = 0.05  # β at the start
    adaptive: bool = True  # β follows the KL towards `target` (Ziegler et al. 2019)
    target: float = 6.0
    horizon: float = 10_000.0  # responses over which β can change by a factor of e
    estimator: str | None = None  # k1, k2, k3 or k3+ (value of k3, gradient of k2); null: the algorithm's own
    place: str | None = None  # in the reward of each token, or in the loss; null: the algorithm's own
    clamp: float | None = None  # bound on a token's log-ratio before it is estimated
    budget: float | None = None  # stop when a rollout's KL is above

    def __post_init__(self) -> None:
        for name in ("coef", "target", "horizon"):
            if getattr(self, name) <= 0 and not (name == "coef" and self.coef == 0 and not self.adaptive):
                raise ConfigError(f"rl.kl.{name}={getattr(self, name)}: expected above 0")
        check_choice("rl.kl.estimator", self.estimator, (None, *KL_ESTIMATORS))
        check_choice("rl.kl.place", self.place, (None, "reward", "loss"))
        for name in ("budget", "clamp"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ConfigError(f"rl.kl.{name}={getattr(self, name)}: expected above 0, or null")

    def controller(self) -> FixedKL:
        if not self.adaptive:
            return FixedKL(coef=self.coef)
        return AdaptiveKL(coef=self.coef, target=self.target, horizon=self.horizon)


@dataclass
class ConstraintConfig:
    """An axis that is not traded against the others but held: its mean cost, the negative of its score, at most
    `limit` (PPO-Lagrangian, Dai et al. 2023). The axis then has no weight in the score."""

    limit: float | None = None  # in units of the axis's score; null: no constraint
    axis: str = "harmless"
    multiplier: float = 1.0  # λ at the start
    learning_rate: float = 0.1  # of log λ, a rollout
    max_multiplier: float = 100.0
    warmup: int = 0  # rollouts that leave λ as it is

    def __post_init__(self) -> None:
        for name in ("multiplier", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"rl.constraint.{name}={getattr(self, name)}: expected above 0")
        if self.max_multiplier < self.multiplier:
            raise ConfigError(
                f"rl.constraint.max_multiplier={self.max_multiplier}: expected at least multiplier={self.multiplier}"
            )

    def lagrangian(self) -> Lagrangian | None:
        if self.limit is None:
            return None
        return Lagrangian(
            threshold=self.limit,
            lr=self.learning_rate,
            log_lambda=math.log(self.multiplier),
            max_lambda=self.max_multiplier,
            warmup=self.warmup,
        )


@dataclass
class ScoreConfig:
    """How the score of a response is shaped before it becomes its reward, in this order."""

    normalise: bool = False  # by the mean and the standard deviation of all scores so far
    clip: float | None = 5.0  # to ± this
    missing_end_penalty: float = 1.0  # taken from a response that did not close its turn
    missing_end_score: float | None = None  # what such a response gets instead
    overlong_buffer: int = 0  # tokens before max_new_tokens over which a penalty grows (DAPO); 0: none
    overlong_penalty: float = 1.0  # at the end of the buffer


@dataclass
class FinalWeights:
    """Where an axis's weight ends that moves, linearly over the rollouts; null: it stays."""

    helpful: float | None = None
    honest: float | None = None
    harmless: float | None = None


@dataclass
class RLConfig:
    """The algorithm and its numbers. `trainer.batch_size` counts the responses of a minibatch."""

    algorithm: str = "ppo"  # ppo, grpo, dr_grpo, rloo, reinforce_pp or reinforce_pp_baseline
    rollouts: int = 10  # iterations
    prompts: int = 128  # a rollout, over all processes
    samples: int = 1  # responses a prompt
    refills: int = 0  # times that groups of equal scores are replaced by other prompts' (dynamic sampling, DAPO)
    epochs: int = 2  # passes over a rollout
    max_update_kl: float | None = None  # old to new policy, nats per token: above it the rest of the passes is left out
    max_new_tokens: int = 64
    temperature: float = 1.0  # of sampling, and of every log-probability
    top_p: float = 1.0  # anything but 1 would make the ratio that of another policy
    top_k: int = 0  # anything but 0 likewise
    gamma: float = 1.0
    lam: float = 0.95
    bootstrap: bool = False  # the critic says what a response that was cut off would still have earned
    whiten: bool | None = None  # advantages, once a rollout; null: the algorithm's own
    whiten_rewards: bool = False  # rewards of tokens, their mean kept
    clip: float = 0.2  # half-width of the trust region on the ratio
    clip_high: float | None = None  # its upper half, where it differs
    dual_clip: float | None = None  # bound on the ratio in the loss of negative advantages
    ratio: str = "token"  # token, or sequence: one ratio a response (GSPO)
    aggregation: str | None = None  # token_mean, seq_mean_token_mean, seq_mean_token_sum or dr_grpo; null: its own
    value_clip: float | None = 0.2
    value_coef: float = 0.5
    entropy_coef: float = 0.0
    critic: str = "own"  # own: a backbone or an adapter of its own; head: a head that reads the policy's states
    critic_learning_rate: float = 1e-4
    ptx_coef: float = 0.0  # weight of the NLL of pretraining text
    ptx_batch_size: int = 16  # documents a minibatch
    evaluate_every: int = 2  # rollouts between looks at development prompts
    evaluation_prompts: int = 128
    patience: int = 0  # stop after so many looks in a row without a better score of the referee; 0: never
    weights: AxisWeights = field(default_factory=AxisWeights)  # of the axes of our reward model in the score
    final_weights: FinalWeights = field(default_factory=FinalWeights)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    kl: KLConfig = field(default_factory=KLConfig)
    constraint: ConstraintConfig = field(default_factory=ConstraintConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    alerts: AlertConfig = field(default_factory=AlertConfig)

    def __post_init__(self) -> None:
        if self.top_p != 1.0 or self.top_k != 0:
            raise ConfigError(
                f"rl.top_p={self.top_p}, rl.top_k={self.top_k}: expected 1 and 0; a truncated distribution biases the "
                "ratio and the KL"
            )
        for holds, expected, names in _RANGES:
            for name in names:
                if not holds(getattr(self, name)):
                    raise ConfigError(f"rl.{name}={getattr(self, name)}: expected {expected}")
        if self.dual_clip is not None and self.dual_clip <= 1:
            raise ConfigError(f"rl.dual_clip={self.dual_clip}: expected above 1, or null")
        if self.score.overlong_buffer > self.max_new_tokens:
            raise ConfigError(f"rl.score.overlong_buffer: expected at most rl.max_new_tokens={self.max_new_tokens}")
        check_choice("rl.algorithm", self.algorithm, ALGORITHMS)
        check_choice("rl.critic", self.critic, ("own", "head"))
        check_choice("rl.ratio", self.ratio, ("token", "sequence"))
        check_choice("rl.aggregation", self.aggregation, (None, *AGGREGATIONS))
        self._check_groups()

    def _check_groups(self) -> None:
        groups = self.kind.groups
        if groups and self.samples < 2:
            raise ConfigError(
                f"rl.samples={self.samples}: rl.algorithm={self.algorithm} compares the responses to one prompt, "
                "expected at least 2"
            )
        if self.refills and not groups:
            raise ConfigError(f"rl.refills={self.refills}: read by the algorithms that compare responses to one prompt")
        if self.bootstrap and not self.kind.critic:
            raise ConfigError(
                f"rl.bootstrap=true: rl.algorithm={self.algorithm} has no critic that could say the value"
            )
        if self.critic == "head" and not self.kind.critic:
            raise ConfigError(f"rl.critic=head: rl.algorithm={self.algorithm} has no critic")

    @property
    def kind(self) -> Algorithm:
        """The algorithm, with its own choice where an option leaves it one."""
        return ALGORITHMS[self.algorithm].but(
            kl_in=self.kl.place, estimator=self.kl.estimator, aggregation=self.aggregation, whiten=self.whiten
        )

    def column_weights(self, standing: Mapping[str, float], progress: float) -> dict[str, float]:
        """The weight of each column of the score, after a share `progress` of the rollouts. standing: the scorer's own.

        An axis under a constraint has none.
        """
        ours = {}
        for name in AXES:
            first, last = getattr(self.weights, name), getattr(self.final_weights, name)
            ours[name] = first if last is None else first + progress * (last - first)
        held = {self.constraint.axis: 0.0} if self.constraint.limit is not None else {}
        return {name: {**standing, **ours, **held}[name] for name in standing}


_RANGES: tuple[tuple[Callable[[float], bool], str, tuple[str, ...]], ...] = (
    (lambda x: x >= 1, "at least 1", ("rollouts", "prompts", "samples", "epochs", "max_new_tokens", "evaluate_every")),
    (lambda x: x > 0, "above 0", ("temperature", "critic_learning_rate")),
    (lambda x: x >= 0, "0 or more", ("refills", "patience", "evaluation_prompts", "value_coef", "ptx_coef")),
    (lambda x: 0 < x < 1, "in (0, 1)", ("clip",)),
    (lambda x: 0 <= x <= 1, "in [0, 1]", ("gamma", "lam")),
)
