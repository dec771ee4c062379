"""Means with bootstrap intervals: what every number of the evaluation is reported as.

Values of one list must come from different prompts: where a prompt was sampled several times, average its samples
first, otherwise the interval is too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.errors import DataError, NumericsError

# Resampled values held at once: 32 MB of float64.
CHUNK = 4_000_000


@dataclass(frozen=True)
class Estimate:
    """A mean over n values with its interval. With n = 1 or equal values the interval is that one point."""

    mean: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        return asdict(self)

    @property
    def above_zero(self) -> bool:
        """The interval lies above 0."""
        return self.low > 0

    @property
    def below_zero(self) -> bool:
        """The interval lies below 0."""
        return self.high < 0


def bootstrap_mean(values: ArrayLike, *, seed: int = 0, n_resamples: int = 2000, level: float = 0.95) -> Estimate:
    """Mean with the percentile bootstrap interval (Efron 1979).

    values: (N,). level: coverage, 0.95 by default. The same values and seed give the same interval.
    Raises DataError without values and NumericsError where one is not finite.
    """
    x = finite(values)
    generator = np.random.default_rng(seed)
    rows = max(1, CHUNK // len(x))
    means = [
        x[generator.integers(len(x), size=(min(rows, n_resamples - start), len(x)))].mean(axis=1)
        for start in range(0, n_resamples, rows)
    ]
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(np.concatenate(means), [tail, 1.0 - tail])
    mean = float(x.mean())
    # Summing equal numbers in another order may leave the last bit outside of its own interval.
    return Estimate(mean, min(float(low), mean), max(float(high), mean), len(x))


def finite(values: ArrayLike) -> NDArray[np.float64]:
    """The values as a non-empty float64 vector."""
    x = np.asarray(values, dtype=np.float64).reshape(-1)
    if not len(x):
        raise DataError("no values to average: an evaluation needs at least one row")
    if not np.isfinite(x).all():
        row = int(np.flatnonzero(~np.isfinite(x))[0])
        raise NumericsError(f"value {row} of {len(x)} to average is {x[row]}")
    return x


def paired_difference(ours: ArrayLike, theirs: ArrayLike, *, seed: int = 0, level: float = 0.95) -> Estimate:
    """Mean of ours - theirs, both (N,) on the same prompts in the same order. Above 0: ours is larger."""
    x, y = finite(ours), finite(theirs)
    if len(x) != len(y):
        raise DataError(f"a paired difference needs the same prompts on both sides, got {len(x)} and {len(y)} values")
    return bootstrap_mean(x - y, seed=seed, level=level)


def win_rate(ours: ArrayLike, theirs: ArrayLike, *, seed: int = 0, level: float = 0.95) -> Estimate:
    """Share of prompts on which ours scores higher, ties counting 0.5. Both (N,), paired."""
    x, y = finite(ours), finite(theirs)
    if len(x) != len(y):
        raise DataError(f"a win rate needs the same prompts on both sides, got {len(x)} and {len(y)} values")
    return bootstrap_mean(0.5 + 0.5 * np.sign(x - y), seed=seed, level=level)


def by_prompt(values: Sequence[float], prompts: Sequence[int]) -> list[float]:
    """The mean of each prompt's values, prompts in the order of their first value. Both (N,)."""
    groups: dict[int, list[float]] = {}
    for value, prompt in zip(values, prompts, strict=True):
        groups.setdefault(prompt, []).append(value)
    return [sum(group) / len(group) for group in groups.values()]


Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""A number of a whole corpus, made of the sums over its rows: (..., k) to (...)."""


def bootstrap_statistic(
    rows: ArrayLike, statistic: Statistic, *, minus: ArrayLike | None = None, seed: int = 0, n_resamples: int = 1000
) -> Estimate:
    """A corpus statistic with its percentile bootstrap interval, 95 %, resampled by row.

    rows: (N, k). minus: the rows of another, in the same order; then it is the paired difference to their statistic.
    Raises DataError without rows and NumericsError where a value is not finite.
    """
    sides = [finite(side).reshape(np.shape(side)) for side in (rows, minus) if side is not None]
    n, width = sides[0].shape
    generator = np.random.default_rng(seed)
    at_once = max(1, CHUNK // (n * width))
    found = []
    for start in range(0, n_resamples, at_once):
        drawn = generator.integers(n, size=(min(at_once, n_resamples - start), n))
        found.append(_difference([statistic(side[drawn].sum(1)) for side in sides]))
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975])
    mean = float(_difference([statistic(side.sum(0)) for side in sides]))
    return Estimate(mean, min(float(low), mean), max(float(high), mean), n)


def perplexity(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp(negative log-likelihood per token) of (..., (nll, tokens))."""
    return np.exp(sums[..., 0] / sums[..., 1])


def bootstrap_perplexity(nll: Sequence[tuple[float, int]], *, seed: int = 0) -> Estimate:
    """Perplexity over documents, each (summed nll, tokens), resampled by document."""
    return bootstrap_statistic(nll, perplexity, seed=seed)


def _difference(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    return values[0] if len(values) == 1 else values[0] - values[1]
