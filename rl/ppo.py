"""PPO for language models: per-token KL in the reward, GAE with a critic, clipped updates, adaptive KL, PTX.

    prompts → rollout → score → rewards (−β·KL on every token, the score on the last) → advantages
            → `epochs` passes of minibatches → β → next prompts

R = responses of a rollout, T = its longest response, N = tokens of a minibatch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from models.errors import ConfigError, NumericsError
from models.layout import Batch, collate
from models.objective import Mean, Metrics, Rows
from rl.actor_critic import ActorCritic
from rl.advantages import gae, terminal_scores, token_rewards, whiten
from rl.kl import AdaptiveKL, FixedKL, token_kl
from rl.losses import clipped_surrogate, clipped_value_error, policy_metrics, ppo_total
from rl.rollout import Rollout, RolloutEngine


@dataclass
class KLConfig:
    """The pull towards the reference policy. KL is in nats per response."""

    coef: float = 0.05  # β at the start
    adaptive: bool = True  # β follows the KL towards `target` (Ziegler et al. 2019)
    target: float = 6.0
    horizon: float = 10_000.0  # responses over which β can change by a factor of e
    estimator: str = "k1"  # k1, k2 or k3
    budget: float | None = None  # stop when a rollout's KL is above

    def __post_init__(self) -> None:
        for name in ("coef", "target", "horizon"):
            if getattr(self, name) <= 0 and not (name == "coef" and self.coef == 0 and not self.adaptive):
                raise ConfigError(f"ppo.kl.{name}={getattr(self, name)}: expected above 0")
        if self.estimator not in ("k1", "k2", "k3"):
            raise ConfigError(f"ppo.kl.estimator={self.estimator}: expected k1, k2 or k3")
        if self.budget is not None and self.budget <= 0:
            raise ConfigError(f"ppo.kl.budget={self.budget}: expected above 0, or null")

    def controller(self) -> FixedKL:
        if not self.adaptive:
            return FixedKL(coef=self.coef)
        return AdaptiveKL(coef=self.coef, target=self.target, horizon=self.horizon)


@dataclass
class PPOConfig:
    """The algorithm's numbers. `trainer.batch_size` is the minibatch."""

    rollouts: int = 10  # iterations
    prompts: int = 128  # a rollout, over all processes
    epochs: int = 2  # passes over a rollout
    max_new_tokens: int = 64
    temperature: float = 1.0  # of sampling, and of every log-probability
    top_p: float = 1.0  # anything but 1 would make the ratio that of another policy
    top_k: int = 0  # anything but 0 likewise
    gamma: float = 1.0
    lam: float = 0.95
    clip: float = 0.2  # half-width of the trust region on the ratio
    clip_high: float | None = None  # its upper half, where it differs
    dual_clip: float | None = None  # bound on the loss of negative advantages
    value_clip: float | None = 0.2
    value_coef: float = 0.5
    entropy_coef: float = 0.0
    critic_learning_rate: float = 1e-4
    whiten: bool = True  # advantages, once a rollout
    reward_clip: float | None = 5.0
    missing_end_penalty: float = 1.0  # taken from the score of a response that did not close its turn
    ptx_coef: float = 0.0  # weight of the NLL of pretraining text
    ptx_batch_size: int = 16  # documents a minibatch
    evaluate_every: int = 2  # rollouts between looks at development prompts
    evaluation_prompts: int = 128
    helpful: float = 1.0  # weight of the axis in the score
    honest: float = 1.0
    harmless: float = 1.0
    kl: KLConfig = field(default_factory=KLConfig)

    def __post_init__(self) -> None:
        if self.top_p != 1.0 or self.top_k != 0:
            raise ConfigError(
                f"ppo.top_p={self.top_p}, ppo.top_k={self.top_k}: expected 1 and 0; a truncated distribution "
                "biases the ratio and the KL"
            )
        for name in ("rollouts", "prompts", "epochs", "max_new_tokens", "evaluate_every", "evaluation_prompts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"ppo.{name}={getattr(self, name)}: expected at least 1")
        for name in ("temperature", "critic_learning_rate"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"ppo.{name}={getattr(self, name)}: expected above 0")
        if not 0 < self.clip < 1:
            raise ConfigError(f"ppo.clip={self.clip}: expected in (0, 1)")
        if not (0 <= self.gamma <= 1 and 0 <= self.lam <= 1):
            raise ConfigError(f"ppo.gamma={self.gamma}, ppo.lam={self.lam}: expected in [0, 1]")

    @property
    def axis_weights(self) -> list[float]:
        return [self.helpful, self.honest, self.harmless]


@dataclass(frozen=True)
class Experience:
    """A rollout with what its tokens earned. All (R, T), zero-padded."""

    rollout: Rollout
    advantages: Tensor
    returns: Tensor
    kl: Tensor  # (R,) nats per response, k1
    score: Tensor  # (R,) weighted sum of the axes, as it entered the reward

    def collate(self, indices: Sequence[int], bin_tokens: int, first: bool) -> Batch:
        """A minibatch; token fields in the layout's order, (N,)."""
        rows, rollout = torch.as_tensor(indices), self.rollout
        mask = rollout.mask[rows]
        tokens = {
            "old_logprobs": rollout.logprobs,
            "old_values": rollout.values,
            "advantages": self.advantages,
            "returns": self.returns,
        }
        batch = collate([rollout.trees[i] for i in indices], bin_tokens=bin_tokens)
        picked = {name: value[rows][mask] for name, value in tokens.items()}
        return {**batch, **picked, "first": torch.tensor(first)}


def experience(rollout: Rollout, cfg: PPOConfig, kl_coef: float) -> Experience:
    """Rewards and advantages of a rollout, fixed before its first update."""
    score = terminal_scores(
        rollout.scores @ torch.tensor(cfg.axis_weights),
        rollout.ended,
        clip=cfg.reward_clip,
        missing_end_penalty=cfg.missing_end_penalty,
    )
    kl = token_kl(rollout.logprobs, rollout.ref_logprobs, rollout.mask, estimator=cfg.kl.estimator)
    rewards = token_rewards(score, kl, rollout.mask, kl_coef=kl_coef)
    found = gae(rewards, rollout.values, rollout.mask, gamma=cfg.gamma, lam=cfg.lam)
    advantages = whiten(found.advantages, rollout.mask) if cfg.whiten else found.advantages
    drift = ((rollout.logprobs - rollout.ref_logprobs) * rollout.mask).sum(1)
    return Experience(rollout, advantages, found.returns, drift, score)


@dataclass
class PPOBatches:
    """Batches that refill themselves: a rollout, `epochs` shuffled passes over it, β, the next rollout.

    The trainer tells `after_step` of every optimizer step, before a checkpoint is saved. After the last one of a
    rollout `on_rollout(iteration, metrics)` is told, then `after_update(iteration, kl)`, which ends the training by
    returning True. Iterations count from 1.
    """

    model: ActorCritic
    engine: RolloutEngine
    prompts: Sequence[list[int]]  # the pool, as ids
    cfg: PPOConfig
    minibatch: int  # responses
    seed: int
    controller: FixedKL
    ptx: Rows | None
    on_rollout: Callable[[int, dict[str, float]], None]
    after_update: Callable[[int, float], bool]
    start_step: int = 0
    stopped: bool = False

    def __post_init__(self) -> None:
        self.current: Experience | None = None
        if self.cfg.prompts % self.minibatch:
            raise ConfigError(
                f"ppo.prompts={self.cfg.prompts}: expected a multiple of trainer.batch_size={self.minibatch}"
            )

    @property
    def steps_per_rollout(self) -> int:
        return self.cfg.epochs * (self.cfg.prompts // self.minibatch)

    def __len__(self) -> int:
        return self.cfg.rollouts * self.steps_per_rollout

    def __iter__(self) -> Iterator[Batch]:
        for iteration in range(self.start_step // self.steps_per_rollout, self.cfg.rollouts):
            rollout = self.engine.collect(self.model, self._prompts_of(iteration), self._generator(iteration, 0))
            found = experience(rollout, self.cfg, self.controller.coef)
            self.current, self.update_started = found, time.perf_counter()
            yield from self._minibatches(found, iteration)
            if self.stopped:
                return

    def after_step(self, step: int) -> None:
        """Close a rollout after its last update: metrics, β, and whether to go on."""
        found = self.current
        if step % self.steps_per_rollout or found is None:
            return
        iteration, kl = step // self.steps_per_rollout, float(found.kl.mean())
        found.rollout.seconds["update"] = time.perf_counter() - self.update_started
        self.on_rollout(iteration, rollout_metrics(found, self.controller.coef))
        n = len(found.rollout.trees)
        self.controller.update(kl, n, float(found.kl.std(correction=0)) / n**0.5)
        self.stopped = self.after_update(iteration, kl)

    def _minibatches(self, found: Experience, iteration: int) -> Iterator[Batch]:
        shuffler = self._generator(iteration, 1)
        for epoch in range(self.cfg.epochs):
            order = torch.randperm(self.cfg.prompts, generator=shuffler).tolist()
            for start in range(0, len(order), self.minibatch):
                first = epoch == 0 and start == 0
                batch = found.collate(order[start : start + self.minibatch], self.engine.bin_tokens, first)
                yield self._with_text(batch, shuffler)

    def _with_text(self, batch: Batch, generator: torch.Generator) -> Batch:
        n_tokens = float(len(batch["target"]))
        if self.ptx is None:
            return {**batch, "units": torch.tensor([n_tokens, 0.0])}
        rows = torch.randint(len(self.ptx), (self.cfg.ptx_batch_size,), generator=generator).tolist()
        text = self.ptx.collate(rows)
        units = torch.tensor([n_tokens, float(text.pop("units")[0])])
        return {**batch, "units": units, **{f"ptx_{name}": value for name, value in text.items()}}

    def _prompts_of(self, iteration: int) -> list[list[int]]:
        """The pool in shuffled passes; the same prompts for the same seed, whatever was resumed."""
        first = iteration * self.cfg.prompts
        passes = range(first // len(self.prompts), (first + self.cfg.prompts - 1) // len(self.prompts) + 1)
        order = [i for p in passes for i in torch.randperm(len(self.prompts), generator=self._generator(p, 2)).tolist()]
        offset = first - passes.start * len(self.prompts)
        return [self.prompts[i] for i in order[offset : offset + self.cfg.prompts]]

    def _generator(self, iteration: int, purpose: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.seed * 1009 + purpose) * 1_000_003 + iteration)


class PPOObjective:
    """The clipped surrogate, the clipped value error and PTX. units: (response tokens, text tokens) of the step."""

    def __init__(self, cfg: PPOConfig) -> None:
        self.cfg = cfg

    def __call__(self, model: nn.Module, batch: Batch, units: Tensor) -> tuple[Tensor, Metrics]:
        cfg = self.cfg
        text = {name[4:]: value for name, value in batch.items() if name.startswith("ptx_")}
        found = model(batch, cfg.temperature, text or None)
        log_ratio = found.logprobs - batch["old_logprobs"]
        if batch["first"]:
            check_first_ratio(log_ratio)
        surrogate = clipped_surrogate(
            log_ratio,
            batch["advantages"],
            clip_low=cfg.clip,
            clip_high=cfg.clip if cfg.clip_high is None else cfg.clip_high,
            dual_clip=cfg.dual_clip,
        )
        error = clipped_value_error(found.values, batch["old_values"], batch["returns"], clip=cfg.value_clip)
        policy, value = surrogate.loss.sum() / units[0], error.loss.sum() / units[0]
        nll = -found.ptx_logprobs.sum() / units[1] if text else 0.0
        total = ppo_total(
            policy,
            value,
            found.entropy.sum() / units[0],
            nll,
            value_coef=cfg.value_coef,
            entropy_coef=cfg.entropy_coef,
            ptx_coef=cfg.ptx_coef,
        )
        n = batch["units"][0]
        seen = policy_metrics(log_ratio, surrogate.clipped, torch.ones_like(log_ratio, dtype=torch.bool))
        metrics = {f"policy/{name}": Mean(value * n, n) for name, value in seen.items()}
        metrics["policy/loss"] = Mean(surrogate.loss.detach().sum(), n)
        metrics["value/loss"] = Mean(error.loss.detach().sum(), n)
        metrics["value/clip_fraction"] = Mean(error.clipped.float().sum(), n)
        if text:
            metrics["ptx/nll"] = Mean(-found.ptx_logprobs.detach().sum(), batch["units"][1])
        return total, metrics


def check_first_ratio(log_ratio: Tensor, tolerance: float = 1e-3) -> None:
    """Before any update the policy is the one that sampled: its ratio is 1, or the two forwards disagree."""
    worst = float(torch.expm1(log_ratio.detach()).abs().max())
    if not worst <= tolerance:
        raise NumericsError(
            f"the ratio of the first minibatch is off 1 by {worst:.2g}; rollout and training see different models "
            "(dropout, mask, template or precision)"
        )


def rollout_metrics(found: Experience, kl_coef: float) -> dict[str, float]:
    """What a rollout says of the policy, under the names that the field uses."""
    rollout, mask = found.rollout, found.rollout.mask
    residual = (found.returns - rollout.values)[mask].var()
    axes = dict(zip(("helpful", "honest", "harmless"), rollout.scores.mean(0).tolist(), strict=True))
    return {
        "objective/kl": float(found.kl.mean()),
        "objective/kl_coef": kl_coef,
        "objective/score": float(found.score.mean()),
        "objective/entropy": rollout.entropy,
        **{f"reward/{axis}": value for axis, value in axes.items()},
        "response/length": float(mask.sum(1).float().mean()),
        "response/ended": float(rollout.ended.float().mean()),
        "value/explained_variance": float(1 - residual / found.returns[mask].var().clamp(min=1e-8)),
        **{f"seconds/{part}": seconds for part, seconds in rollout.seconds.items()},
    }
