"""The report of an experiment, from what its stages sealed, or of a sweep, from what came of its points.

python -m stages.report name=demo
python -m stages.report sweep=outputs/demo minimize=[results.dpo.kl] maximize=[results.dpo.gold.mean]
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evals.report import write_report
from evals.results import (
    METRICS,
    QUESTION_METRICS,
    Alert,
    Answer,
    EnsembleAxis,
    Frontier,
    FrontierPoint,
    Metric,
    ModelResult,
    Report,
    Sample,
    StageRecord,
    estimates,
)
from models.errors import ArtifactError, ConfigError
from stages.reward_report import reward_quality
from stages.reward_tables import best_of_points, ensemble_axes
from stages.rl_report import is_rl, rl_alerts, rl_course
from stages.sweep_report import write_sweep_report
from stages.task_tables import task_tables
from train.artifact import MANIFEST, Artifact, ancestors, read_artifact
from train.entry import start
from train.tracking import TrackingConfig

ORDER = ("base", "sft", "reward", "referee", "score", "ppo", "dpo", "evaluate")
WORLD_METRICS = (
    Metric("benign_helpful", "answerable and benign: helpful", "higher"),
    Metric("known_facts", "known facts: helpful", "higher"),
    Metric("benign_refused", "benign how-to refused", "lower"),
    Metric("harmful_refused", "harmful refused", "higher"),
    Metric("unknown_admitted", "unknown: honest", "higher"),
    Metric("sampled.gold.mean", "gold mean, sampled", "higher"),
)


@dataclass
class ReportStage:
    """conf/report.yaml"""

    name: str = "demo"
    outputs: str = "outputs"
    sweep: str | None = None  # the folder of a sweep, in place of an experiment's
    maximize: list[str] = field(default_factory=list)  # metrics of its points that count; none: as it was typed
    minimize: list[str] = field(default_factory=list)
    tracking: TrackingConfig = field(
        default_factory=lambda: TrackingConfig(backend="none")
    )  # where a summary of the sweep goes, too
    debug: bool = False  # show tracebacks

    def __post_init__(self) -> None:
        if self.sweep is None and (self.maximize or self.minimize or self.tracking.backend != "none"):
            raise ConfigError("maximize, minimize and tracking: belong to a sweep; say sweep=outputs/<its name>")


def run(cfg: ReportStage) -> Path:
    """Write report.html into the experiment's folder, with results.json, or into the sweep's."""
    if cfg.sweep is not None:
        return write_sweep_report(Path(cfg.sweep), cfg.maximize, cfg.minimize, cfg.tracking)
    folder = Path(cfg.outputs) / cfg.name
    artifacts = lineage(folder)
    evaluation = next((a for a in artifacts if a.manifest["kind"] == "evaluation"), None)
    if evaluation is not None:
        shutil.copy(evaluation.folder / "results.json", folder / "results.json")
        return write_report(folder / "report.html", assembled(cfg.name, artifacts, evaluation))
    if reward_among(artifacts) is None and not any(map(is_rl, artifacts)):
        raise ArtifactError(
            f"{folder}: no sealed evaluation, reward model or policy of stages.ppo; run stages.evaluate "
            f"name={cfg.name} first"
        )
    return write_report(folder / "report.html", of_stages(cfg.name, artifacts))


def lineage(folder: Path) -> list[Artifact]:
    """What stands in an experiment's folder and, of what that was made from, the stages that it has not itself: the
    points of a sweep share them."""
    own = [read_artifact(path.parent, verify=False) for path in folder.glob(f"*/{MANIFEST}")]
    found = {artifact.folder.name: artifact for of in own for artifact in ancestors(of)}
    found |= {artifact.folder.name: artifact for artifact in own}
    return [found[name] for name in ORDER if name in found]


def reward_among(artifacts: Sequence[Artifact]) -> Artifact | None:
    return next((a for a in artifacts if a.manifest["kind"] == "reward"), None)


def of_stages(name: str, artifacts: Sequence[Artifact]) -> Report:
    """The page of an experiment that has come as far as its reward model or its policy, before any evaluation."""
    reward, courses = reward_among(artifacts), tuple(rl_course(a) for a in artifacts if is_rl(a))
    asks = "what did the policy learn?" if courses else "how good is the reward model?"
    return Report(
        title=f"{name}: {asks}",
        models=(),
        stages=tuple(stage_record(artifact) for artifact in artifacts),
        reward_quality=reward_quality(reward) if reward else None,
        rl=courses,
        ensemble=tuple(ensembles(artifacts)),
        alerts=tuple(alerts(artifacts)),
        facts=facts(artifacts, artifacts[-1].manifest),
    )


def assembled(name: str, artifacts: Sequence[Artifact], evaluation: Artifact) -> Report:
    """Everything that the page shows."""
    results = json.loads((evaluation.folder / "results.json").read_text(encoding="utf-8"))
    reference = evaluation.manifest["config"]["reference"]
    reward = reward_among(artifacts)
    manifest = evaluation.manifest
    known = set().union(*map(estimates, results.values()))
    return Report(
        title=f"{name}: is the model better, and at what cost?",
        models=tuple(model_result(model, results[model], reference) for model in manifest["facts"]["models"]),
        stages=tuple(stage_record(artifact) for artifact in artifacts),
        frontiers=tuple(frontiers(evaluation)),
        reward_quality=reward_quality(reward) if reward else None,
        rl=tuple(rl_course(a) for a in artifacts if is_rl(a)),
        ensemble=tuple(ensembles(artifacts)),
        best_of={m: best_of_points(found["best_of"]) for m, found in results.items() if "best_of" in found},
        samples=tuple(samples(evaluation)),
        alerts=tuple(alerts(artifacts)),
        facts=facts(artifacts, manifest),
        metrics=(*METRICS, *(m for m in (*QUESTION_METRICS, *WORLD_METRICS) if m.key in known)),
        tasks=tuple(task_tables(results[reference])),
    )


def ensembles(artifacts: Sequence[Artifact]) -> Iterator[EnsembleAxis]:
    """The axes of every scoring of rankings by several models."""
    for artifact in artifacts:
        if artifact.manifest["kind"] == "scores":
            yield from ensemble_axes(artifact)


def facts(artifacts: Sequence[Artifact], manifest: Mapping[str, Any]) -> dict[str, str]:
    """What stands below the title."""
    return {
        "seed": str(manifest["seed"]),
        "stages": f"{sum(a.manifest['wall_seconds'] for a in artifacts):.0f} s",
        "CPUs": str(manifest["hardware"]["host_cpus"]),
        "commit": str(manifest["git_commit"] or "none")[:10],
    }


def model_result(name: str, found: Mapping[str, Any], reference: str) -> ModelResult:
    """One model's row: estimates, and paired gains over the reference."""
    sampled = found["sampled"]
    own = {**without_gain(found), "sampled": without_gain(sampled)}
    gains = estimates({**found.get("gain", {}), "sampled": sampled.get("gain", {})})
    return ModelResult(name, estimates(own), reference if name != reference and gains else None, gains)


def without_gain(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != "gain"}


def stage_record(artifact: Artifact) -> StageRecord:
    """A stage of the lineage with its curves."""
    manifest = artifact.manifest
    curves, split = curves_of(artifact.folder / "metrics.jsonl")
    return StageRecord(
        name=artifact.folder.name,
        seconds=manifest["wall_seconds"],
        peak_bytes=int(manifest["peak_memory_mb"] * 1024 * 1024),
        digest=manifest["identity"][:12],
        parents=tuple(dict.fromkeys(Path(path).name for path in manifest["parents"].values())),
        config={key: value for key, value in manifest["config"].items() if value is not None},
        metrics={k: float(v) for k, v in manifest["metrics"].items() if isinstance(v, int | float)},
        curves=curves,
        time_split={} if is_rl(artifact) else split,  # the course of RL shows its own
    )


def curves_of(path: Path) -> tuple[dict[str, list[tuple[float, float]]], dict[str, float]]:
    """Logged metrics by name, and summed seconds by part."""
    curves: dict[str, list[tuple[float, float]]] = {}
    split: dict[str, float] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        logged = json.loads(line)
        for name, value in logged.items():
            if name.startswith("seconds/"):
                split[name.removeprefix("seconds/")] = split.get(name.removeprefix("seconds/"), 0.0) + value
            elif name != "step":
                curves.setdefault(name, []).append((logged["step"], value))
    return curves, split


def frontiers(evaluation: Artifact) -> Iterator[Frontier]:
    path = evaluation.folder / "frontier.json"
    for name, points in (json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}).items():
        yield Frontier(
            name,
            tuple(
                FrontierPoint(max(p["kl"], 0.0), p["proxy"], p["gold"], int(p["iteration"]), p["kept"]) for p in points
            ),
        )


def samples(evaluation: Artifact) -> Iterator[Sample]:
    for line in (evaluation.folder / "samples.jsonl").read_text(encoding="utf-8").split("\n"):
        if line:
            row = json.loads(line)
            answers = {name: Answer(a["text"], a["scores"]) for name, a in row["answers"].items()}
            yield Sample(row["prompt"], answers, right=row.get("right", ""))


def alerts(artifacts: Sequence[Artifact]) -> Iterator[Alert]:
    """What a reader should know before trusting a number."""
    for artifact in artifacts:
        if skipped := artifact.manifest["steps_skipped"]:
            yield Alert(artifact.folder.name, f"{skipped} steps had gradients that were not numbers and were skipped")
        kept = artifact.manifest["metrics"].get("kept")
        if isinstance(kept, dict) and kept["iteration"] == 0:
            yield Alert(
                artifact.folder.name, "the referee preferred the starting policy to every later one", severe=True
            )
        if is_rl(artifact):
            yield from rl_alerts(artifact)


if __name__ == "__main__":
    start("report", ReportStage, run)
