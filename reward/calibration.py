"""How far a reward model's probabilities can be trusted, and the scale of its scores.

B = pairs, N = responses, A = axes. `delta` is the score of the better response less that of the worse one, so the
model's probability of the truth is sigmoid(delta / temperature).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.errors import DataError


class ReliabilityBins(NamedTuple):
    """What a reliability diagram shows, one entry a bin; empty bins have count 0 and means 0."""

    edges: Tensor  # (n_bins + 1,)
    confidence: Tensor  # (n_bins,) mean predicted probability
    accuracy: Tensor  # (n_bins,) share that was right
    count: Tensor  # (n_bins,)


def reliability_bins(confidence: Tensor, correct: Tensor, *, n_bins: int = 15) -> ReliabilityBins:
    """Equal-width right-closed bins over [0, 1]; a probability of 0 is in the first. confidence, correct: (B,)."""
    confidence, correct = confidence.double(), correct.double()
    # Decimal edges: 0.2 must lie in the bin that ends at 0.2, which ceil(p * n_bins) gets wrong by one rounding error.
    edges = torch.tensor([i / n_bins for i in range(n_bins + 1)], dtype=torch.float64, device=confidence.device)
    index = torch.bucketize(confidence, edges[1:-1])
    count = torch.bincount(index, minlength=n_bins)
    divisor = count.clamp(min=1)
    mean_confidence = torch.bincount(index, weights=confidence, minlength=n_bins) / divisor
    return ReliabilityBins(edges, mean_confidence, torch.bincount(index, correct, n_bins) / divisor, count)


def expected_calibration_error(confidence: Tensor, correct: Tensor, *, n_bins: int = 15) -> float:
    """sum over bins of n_b / N * |accuracy_b - confidence_b|. confidence in [0, 1], correct 0 or 1, both (B,)."""
    bins = reliability_bins(confidence, correct, n_bins=n_bins)
    return float((bins.count * (bins.accuracy - bins.confidence).abs()).sum() / bins.count.sum())


def brier_score(probability: Tensor, outcome: Tensor) -> float:
    """Mean squared distance of the probability from what happened, (B,) each."""
    return float((probability.double() - outcome.double()).square().mean())


def pair_nll(delta: Tensor, *, temperature: float = 1.0) -> float:
    """Mean of -log sigmoid(delta / temperature), nats per pair."""
    return float(F.softplus(-delta.double() / temperature).mean())


def fit_temperature(delta: Tensor, *, low: float = 1e-2, high: float = 1e2) -> float:
    """The temperature in [low, high] with the least `pair_nll`.

    The NLL is convex in the inverse temperature, so the sign of its slope is bisected. Pairs that are all ranked
    rightly want `low`, pairs ranked no better than chance want `high`. Raises DataError without pairs.
    """
    if delta.numel() == 0:
        raise DataError("a temperature cannot be fitted on 0 pairs")
    delta = delta.double()
    smallest, largest = 1.0 / high, 1.0 / low
    for _ in range(100):
        inverse = (smallest * largest) ** 0.5
        slope = -(delta * torch.sigmoid(-delta * inverse)).mean()
        smallest, largest = (inverse, largest) if slope < 0 else (smallest, inverse)
    return (smallest * largest) ** -0.5


class Quality(NamedTuple):
    """How good a set of pair probabilities is."""

    nll: float
    brier: float
    ece: float


@dataclass(frozen=True)
class Calibration:
    """A temperature, fitted on one set of pairs and judged on another. It changes no accuracy."""

    temperature: float
    before: Quality
    after: Quality
    bins: ReliabilityBins  # of the judged pairs, at the fitted temperature


def winner_confidence(delta: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """The probability in [0.5, 1] that the model gives to its own pick, and whether the pick was right (ties 0.5).

    The probability of the chosen response would not do: against it every outcome is 1.
    """
    return torch.sigmoid(delta.double().abs() / temperature), 0.5 + 0.5 * delta.double().sign()


def quality(delta: Tensor, *, temperature: float = 1.0, n_bins: int = 15) -> Quality:
    """NLL, Brier score and calibration error of the pairs (B,) at a temperature."""
    confidence, right = winner_confidence(delta, temperature)
    ece = expected_calibration_error(confidence, right, n_bins=n_bins)
    truth = torch.sigmoid(delta.double() / temperature)
    return Quality(pair_nll(delta, temperature=temperature), brier_score(truth, torch.ones_like(truth)), ece)


def calibrate(fit_delta: Tensor, held_out_delta: Tensor, *, n_bins: int = 15) -> Calibration:
    """Fits the temperature on one set of pairs and measures it on a set apart."""
    temperature = fit_temperature(fit_delta)
    confidence, right = winner_confidence(held_out_delta, temperature)
    return Calibration(
        temperature=temperature,
        before=quality(held_out_delta, n_bins=n_bins),
        after=quality(held_out_delta, temperature=temperature, n_bins=n_bins),
        bins=reliability_bins(confidence, right, n_bins=n_bins),
    )


@dataclass(frozen=True)
class AffineStats:
    """Mean and spread of each axis on reference completions: what turns raw head outputs into comparable scores."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    n: int


def affine_stats(rewards: Tensor) -> AffineStats:
    """Per-axis mean and sample standard deviation of rewards (N, A). An axis that is constant keeps a spread of 1."""
    if len(rewards) < 2:
        raise DataError(f"rewards are normalised on at least 2 reference completions, got {len(rewards)}")
    std = rewards.double().std(0)
    std = torch.where(std > 0, std, torch.ones_like(std))
    return AffineStats(tuple(rewards.double().mean(0).tolist()), tuple(std.tolist()), len(rewards))


def length_slope(delta: Tensor, longer: Tensor, strength: Tensor) -> float:
    """How much a score rises with each token at equal labels; 0 without pairs or differences of length.

    Least squares of the score differences of pairs (B,) on their differences of length and of label: what is longer
    because it is better does not count as a taste for length.
    """
    if not longer.any():
        return 0.0
    differences = torch.stack([longer, strength], dim=1).double()
    # gelsd: the columns may be dependent, as where no label differs.
    return float(torch.linalg.lstsq(differences, delta.double()[:, None], driver="gelsd").solution[0])


def normalise(rewards: Tensor, mean: Tensor | float, std: Tensor | float = 1.0) -> Tensor:
    """(rewards - mean) / std, the last dimension being the axes where mean and std are per axis."""
    return (rewards - mean) / std
