"""A search: Optuna proposes the next points from what came of the earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override

from launch.sweeps.points import Point
from launch.sweeps.sweep import Sweep, SweepConfig
from models.errors import ConfigError


@dataclass
class SearchConfig(SweepConfig):
    """hydra/sweeper=optuna"""

    _target_: str = "hydra_plugins.hhh_sweeps.Optuna"
    n_trials: int = 20  # in all, those of earlier calls included
    n_jobs: int = 1  # proposed together; the launcher says how many of them run side by side
    n_startup_trials: int = 10  # drawn at random before TPE proposes
    seed: int = 0  # of the proposals


ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=SearchConfig)


class SearchSweep(Sweep):
    """Batches of points until there were `n_trials`."""

    def __init__(self, n_trials: int, n_jobs: int, n_startup_trials: int, seed: int, **shared: Any) -> None:
        super().__init__(**shared)
        self.n_trials, self.n_jobs, self.n_startup_trials, self.seed = n_trials, n_jobs, n_startup_trials, seed

    def explore(self, varied: Sequence[Override]) -> None:
        from launch.sweeps.study import Study, distribution  # noqa: PLC0415  Optuna, only where it is asked for

        objectives = dict.fromkeys(self.maximize, "maximize") | dict.fromkeys(self.minimize, "minimize")
        if not objectives:
            raise ConfigError("hydra/sweeper=optuna: say hydra.sweeper.maximize=[...] or hydra.sweeper.minimize=[...]")
        for name in ("n_trials", "n_jobs", "n_startup_trials"):
            if getattr(self, name) < 1:
                raise ConfigError(f"hydra.sweeper.{name}={getattr(self, name)}: expected at least 1")
        space = {override.get_key_element(): distribution(override) for override in varied}
        study = Study(self.folder, space, objectives)
        while batch := study.proposed(self.n_jobs, self.n_trials, self.seed, self.n_startup_trials):
            points = [self._point_of(study.first_like(trial), trial.params) for trial in batch]
            outcomes = self.launched(points)
            self.check_metrics(points, outcomes)
            for trial, outcome in zip(batch, outcomes, strict=True):
                study.tell(trial, outcome)
        if best := study.best():
            print(f"best: {', '.join(f'trial-{number}' for number in best)}")

    def _point_of(self, number: int, params: dict[str, Any]) -> Point:
        return self.point({option: str(value) for option, value in params.items()}, f"trial-{number}")
