"""A model card: what a model was made of, by what, on which data, and what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.errors import ArtifactError
from train.artifact import Artifact, is_artifact_folder, read_artifact


def model_card(path: str, kind: str) -> str:
    """Markdown for the README.md of an exported folder."""
    task = "text-classification" if kind == "reward" else "text-generation"
    lines = ["---", "library_name: transformers", f"pipeline_tag: {task}", "tags: [hhh-align]", "---", ""]
    lines += [f"# {Path(path).name}", ""]
    stages = list(_lineage(path))
    if not stages:
        return "\n".join([*lines, f"Exported from `{path}`, which no stage of hhh-align made.", ""])
    lines += [_SAID[kind], "", "## How it was made", "", "| stage | trained | on | digest |", "|---|---|---|---|"]
    lines += [_stage_row(artifact) for artifact in stages]
    lines += ["", "## What was measured", ""]
    for artifact in stages:
        numbers = list(_numbers(artifact.manifest["metrics"]))
        if numbers:
            lines += [f"**{artifact.manifest['stage']}**", "", *(f"- {name}: {value}" for name, value in numbers), ""]
    return "\n".join(lines)


_SAID = {
    "policy": "A causal language model with a chat template.",
    "reward": "A three-axis reward model: helpful, honest, harmless. Larger is better; `config.reward_mean` and "
    "`config.reward_std` normalise the logits.",
}


def _lineage(path: str) -> Iterator[Artifact]:
    """The artefacts that a model came from, oldest first, itself last."""
    folder = Path(path)
    if not is_artifact_folder(folder):
        return
    artifact = read_artifact(folder, verify=False)
    parent = artifact.manifest["parents"].get("model.path")
    if parent is not None:
        try:
            yield from _lineage(parent)
        except ArtifactError:
            pass  # an ancestor that was cleared away leaves a gap in the card, not an error
    yield artifact


def _stage_row(artifact: Artifact) -> str:
    config = artifact.manifest["config"]
    method = config.get("adapter.method", "full")
    data = config.get("data.path", "")
    steps = config.get("trainer.learning_rate")
    trained = f"{method}, learning rate {steps}" if steps is not None else ""
    return f"| {artifact.manifest['stage']} | {trained} | {data} | `{artifact.content[:12]}` |"


def _numbers(metrics: dict[str, Any], place: str = "") -> Iterator[tuple[str, str]]:
    """Plain numbers and estimates with their interval, by dotted name; lists are left out."""
    for name, value in metrics.items():
        if isinstance(value, dict) and {"mean", "low", "high"} <= value.keys():
            yield place + name, f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
        elif isinstance(value, dict):
            yield from _numbers(value, f"{place}{name}.")
        elif isinstance(value, int | float):
            yield place + name, f"{value:.4g}" if isinstance(value, float) else str(value)
