"""What should worry whoever watches a run, told from its numbers alone, once when it begins."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, NamedTuple

from models.errors import ConfigError

Numbers = Mapping[str, float]

N_RECENT = 20  # rollouts that a spike is compared with
N_SETTLING = 5  # rollouts before anything can be a spike; and so long a worry must be away to be told anew


@dataclass
class AlertConfig:
    """From when on something is worth a word."""

    kl: float = 25.0  # nats per response; of an adaptive β three times its target, if that is less
    entropy: float = 0.3  # share of the first rollout's that is left
    unfinished: float = 0.5  # share of responses that do not close their turn
    repetition: float = 0.3  # share of the 4-grams of a response that stood in it before; prose has a few hundredths
    spike: float = 10.0  # a loss's distance from its recent median, in its usual deviations

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value <= 0:
                raise ConfigError(f"rl.alerts.{name}={value}: expected above 0")


class Alert(NamedTuple):
    """A worry, and the rollout after which it began."""

    name: str
    iteration: int
    text: str


@dataclass
class Alerts:
    """The history of a run, which is part of a checkpoint, and the worries that it gave."""

    cfg: AlertConfig
    kl_limit: float  # nats per response
    rollouts: list[dict[str, float]] = field(default_factory=list)
    said: list[Alert] = field(default_factory=list)
    held: dict[str, int] = field(default_factory=dict)  # the rollout at which a worry was last there

    def after_rollout(self, iteration: int, metrics: Numbers, looks: Sequence[Numbers]) -> list[Alert]:
        """What begins with this rollout. looks: all that were taken at held-out prompts so far."""
        self.rollouts.append({name: metrics[name] for name in WATCHED if name in metrics})
        begun = []
        for name, worry in WORRIES.items():
            text = worry(self.rollouts, self.cfg, self.kl_limit)
            begun += self._told(name, iteration, text)
        begun += self._told("over-optimisation", iteration, over_optimised(looks))
        self.said += begun
        return begun

    def state_dict(self) -> dict[str, Any]:
        return {"rollouts": self.rollouts, "said": self.said, "held": self.held}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rollouts, self.held = state["rollouts"], state["held"]
        self.said = [Alert(*alert) for alert in state["said"]]

    def _told(self, name: str, iteration: int, text: str | None) -> list[Alert]:
        if text is None:
            return []
        before, self.held[name] = self.held.get(name, -math.inf), iteration
        return [Alert(name, iteration, text)] if iteration - before > N_SETTLING else []


# --- worries: each is told from the history of rollouts, the newest last; None where there is none --------------------


def kl_blow_up(rollouts: Sequence[Numbers], cfg: AlertConfig, kl_limit: float) -> str | None:
    """Far from the reference, or on the way there by leaps."""
    kl = [rollout["objective/kl"] for rollout in rollouts]
    usual = median(kl[-N_SETTLING - 1 : -1]) if len(kl) > N_SETTLING else math.inf
    if kl[-1] > kl_limit:
        return f"KL blow-up: {kl[-1]:.2f} nats per response, above {kl_limit:.3g}"
    if kl[-1] > max(1.0, 3 * usual):  # below a nat a factor says nothing
        return f"KL blow-up: {kl[-1]:.2f} nats per response, lately {usual:.2f}"
    return None


def entropy_collapse(rollouts: Sequence[Numbers], cfg: AlertConfig, kl_limit: float) -> str | None:
    first, now = rollouts[0]["objective/entropy"], rollouts[-1]["objective/entropy"]
    if now < cfg.entropy * first:
        return f"entropy collapse: {now:.3f} nats per token, {first:.3f} at the start; the policy stops exploring"
    return None


def unfinished(rollouts: Sequence[Numbers], cfg: AlertConfig, kl_limit: float) -> str | None:
    ended = rollouts[-1]["response/ended"]
    if 1 - ended > cfg.unfinished:
        how_many = "every response" if ended == 0 else f"{1 - ended:.0%} of the responses"
        return f"{how_many} cut off: no end of turn within rl.max_new_tokens"
    return None


def repetition(rollouts: Sequence[Numbers], cfg: AlertConfig, kl_limit: float) -> str | None:
    share = rollouts[-1]["response/repeated"]
    return f"repetition: {share:.0%} of a response's 4-grams stood in it before" if share > cfg.repetition else None


def one_answer(rollouts: Sequence[Numbers], cfg: AlertConfig, kl_limit: float) -> str | None:
    share, empty = rollouts[-1]["response/most_common"], rollouts[-1]["response/empty"]
    if empty > 0.5:
        return f"{empty:.0%} of the responses are empty"
    return f"{share:.0%} of the responses of a rollout are one and the same" if share > 0.5 else None


def nothing_to_learn(rollouts: Sequence[Numbers], cfg: AlertConfig, kl_limit: float) -> str | None:
    """Equal rewards have no better and no worse."""
    if rollouts[-1]["objective/score_std"] == 0:
        return "constant reward: every response of the rollout scored the same"
    equal = rollouts[-1].get("advantage/equal_groups", 0.0)
    return f"{equal:.0%} of the groups have equal rewards, and teach nothing" if equal > 0.8 else None


def loss_spike(rollouts: Sequence[Numbers], cfg: AlertConfig, kl_limit: float) -> str | None:
    for name in LOSSES:
        losses = [rollout[name] for rollout in rollouts if name in rollout]
        before, now = losses[-N_RECENT - 1 : -1], losses[-1] if losses else 0.0
        if len(before) >= N_SETTLING and now > median(before) + cfg.spike * deviation(before):
            return f"loss spike: {name} {now:.3g}, lately {median(before):.3g}"
    return None


def deviation(values: Sequence[float]) -> float:
    """The usual distance from the median: robust (1.4826 times the median of distances is the standard deviation of
    normal numbers), and never so small that noise of a quiet loss looks large."""
    middle = median(values)
    return max(1.4826 * median(abs(value - middle) for value in values), 0.05 * abs(middle), 0.01)


def over_optimised(looks: Sequence[Numbers]) -> str | None:
    """Over-optimisation (Gao et al. 2023): the learned reward is above what it was at the look that the truth liked
    best, and the truth is below, by more than chance. The truth is the gold judge where there is one, else the referee.
    """
    for judge in ("gold", "referee"):
        if looks and judge in looks[-1]:
            best, now = max(looks, key=lambda look: look[judge]), looks[-1]
            chance = 2 * math.hypot(best[f"{judge}_error"], now[f"{judge}_error"])
            if now["proxy"] > best["proxy"] and best[judge] - now[judge] > chance:
                return (
                    f"over-optimisation: since rollout {best['iteration']:.0f} the learned reward rose from "
                    f"{best['proxy']:.2f} to {now['proxy']:.2f}, and the {judge} fell from {best[judge]:.2f} to "
                    f"{now[judge]:.2f}"
                )
    return None


LOSSES = ("policy/loss", "value/loss", "ptx/nll")
WORRIES: dict[str, Callable[[Sequence[Numbers], AlertConfig, float], str | None]] = {
    "kl": kl_blow_up,
    "entropy": entropy_collapse,
    "unfinished": unfinished,
    "repetition": repetition,
    "one answer": one_answer,
    "nothing to learn": nothing_to_learn,
    "loss": loss_spike,
}
WATCHED = (
    *("objective/kl", "objective/entropy", "objective/score_std", "advantage/equal_groups"),
    *("response/ended", "response/repeated", "response/most_common", "response/empty", *LOSSES),
)
