"""A point of a sweep: one setting of the options that vary, run as an experiment of its own, and what came of it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from models.errors import ConfigError, HHHError, Preempted
from train.artifact import Artifact, ancestors, numbers, write_json
from train.processes import rank
from train.pruning import Pruned
from train.secrets import without_secrets

POINT = "point.json"
ENDED = ("sealed", "pruned", "failed")


@dataclass(frozen=True)
class Outcome:
    """What came of a point.

    metrics: the numbers of its last stage by dotted names, and what the point cost: seconds, tokens, peak_memory_mb.
    code: the exit code that the stage alone would have ended with.
    """

    state: str  # waiting, running, sealed, pruned, failed; stopped: it saved its state and can go on
    metrics: dict[str, float] = field(default_factory=dict)
    cause: str = ""
    code: int = 0

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def value(self, metric: str) -> float:
        """Raises ConfigError where the point's stages report no such metric."""
        if metric not in self.metrics:
            raise ConfigError(f"{metric}: not a metric of this sweep; there are {', '.join(sorted(self.metrics))}")
        return self.metrics[metric]

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / POINT, asdict(self))


class PointsFailed(HHHError):
    """A sweep that went to its end, though not all of its points did."""

    def __init__(self, line: str, code: int) -> None:
        super().__init__(line)
        self.code = code


def read_outcome(folder: Path) -> Outcome:
    """What a point's folder says of it; one that was never started waits."""
    try:
        return Outcome(**json.loads((folder / POINT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Outcome("waiting")


def outcome_of(
    run: Callable[[], object], explained: Callable[[BaseException], tuple[str, int]], folder: Path
) -> Outcome:
    """Run a point in its folder. What goes wrong is its outcome and no exception, so that the others go on; being asked
    to stop ends the process with the exit code for that.

    explained: the line and the exit code for whatever was raised.
    """
    started = time.time()
    _note(Outcome("running"), folder)
    try:
        made = run()
        outcome = Outcome("sealed", measured(made, folder.parent) if isinstance(made, Artifact) else {})
    except Pruned as pruned:
        outcome = Outcome("pruned", {"seconds": time.time() - started}, str(pruned))
    except (KeyboardInterrupt, SystemExit, Preempted) as error:
        line, code = explained(error)
        _note(Outcome("stopped", {}, line, code), folder)
        raise SystemExit(code) from error
    except Exception as error:
        line, code = explained(error)
        outcome = Outcome("failed", {"seconds": time.time() - started}, line, code)
    _note(outcome, folder)
    return outcome


def measured(artifact: Artifact, sweep: Path) -> dict[str, float]:
    """An artefact's metrics, and what it and those of its ancestors cost that were made within the sweep's folder."""
    manifests = [artifact.manifest]
    manifests += [a.manifest for a in ancestors(artifact) if a.folder.resolve().is_relative_to(sweep.resolve())]
    return {
        **numbers(artifact.manifest["metrics"]),
        "seconds": sum(m["wall_seconds"] for m in manifests),
        "tokens": sum(m.get("training_targets", 0) for m in manifests),
        "peak_memory_mb": max(m["peak_memory_mb"] for m in manifests),
    }


def _note(outcome: Outcome, folder: Path) -> None:
    if rank() == 0:
        outcome.write(folder)
        if outcome.cause:
            said = f"[{folder.name}] {outcome.state}: {outcome.cause}"
            print(without_secrets(said), file=sys.stderr, flush=True)
