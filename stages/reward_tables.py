"""What sealed stages found out about using reward models, as the report's data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evals.intervals import Estimate
from evals.results import BestOfPoint, EnsembleAxis
from models.scorer import AXES
from train.artifact import Artifact


def ensemble_axes(scores: Artifact) -> Iterator[EnsembleAxis]:
    """Of a scoring of labelled rankings by several models; nothing of any other."""
    rankings = scores.manifest["metrics"].get("rankings", {})
    for axis in AXES:
        if "members" in (found := rankings.get(axis, {})):
            yield EnsembleAxis(
                axis,
                Estimate(**found["accuracy"]),
                tuple(Estimate(**member) for member in found["members"]),
                Estimate(**found["gain"]),
                {name: Estimate(**area) for name, area in found["error_auroc"].items()},
            )


def best_of_points(found: Mapping[str, Any]) -> tuple[BestOfPoint, ...]:
    """The picks of one model, by n."""
    return tuple(
        BestOfPoint(
            int(n), picked["kl"], Estimate(**picked["proxy"]), Estimate(**picked["gold"]) if "gold" in picked else None
        )
        for n, picked in sorted(found.items(), key=lambda item: int(item[0]))
    )
