"""How well a number tells two kinds of things apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from evals.intervals import CHUNK, Estimate, finite


def auroc(
    scores: ArrayLike, positive: ArrayLike, groups: ArrayLike, *, seed: int = 0, n: int = 1000
) -> Estimate | None:
    """Chance that a positive has the higher score than a negative, a tie one half; 0.5 says nothing.

    scores, positive (bool), groups: (N,). The 95 % interval is the percentile bootstrap's over n resamples of whole
    groups, such as all pairs of one prompt. None where one of the two kinds is missing.
    """
    x, kind = finite(scores), np.asarray(positive, dtype=bool)
    if kind.all() or not kind.any():
        return None
    order = np.argsort(x, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(x[order]) > 0])
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    group, kind = group[order], kind[order]

    def of(counts: np.ndarray) -> np.ndarray:
        """Of resamples that hold each group so many times, (resamples, groups)."""
        weights = counts[:, group]
        above, below = (np.add.reduceat(weights * side, starts, axis=1) for side in (kind, ~kind))
        beaten = below.cumsum(1) - below / 2
        with np.errstate(invalid="ignore"):  # a resample may lack one kind
            return (above * beaten).sum(1) / (above.sum(1) * below.sum(1))

    generator, at_once = np.random.default_rng(seed), max(1, CHUNK // len(x))
    shares = np.full(len(names), 1 / len(names))
    drawn = [
        of(generator.multinomial(len(names), shares, size=min(at_once, n - first)).astype(float))
        for first in range(0, n, at_once)
    ]
    low, high = np.nanquantile(np.concatenate(drawn), [0.025, 0.975])
    mean = float(of(np.ones((1, len(names))))[0])
    return Estimate(mean, min(float(low), mean), max(float(high), mean), len(x))
