"""Every combination of the values that were typed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override

from launch.sweeps.sweep import Sweep, SweepConfig
from models.errors import ConfigError


@dataclass
class GridConfig(SweepConfig):
    """hydra/sweeper=grid"""

    _target_: str = "hydra_plugins.hhh_sweeps.Grid"


ConfigStore.instance().store(group="hydra/sweeper", name="grid", node=GridConfig)


class GridSweep(Sweep):
    """All points at once; the launcher says how many of them run side by side."""

    def explore(self, varied: Sequence[Override]) -> None:
        for override in varied:
            if not override.is_discrete_sweep():
                raise ConfigError(f"{override.input_line}: a range has no grid; say values, or hydra/sweeper=optuna")
        keys = [override.get_key_element() for override in varied]
        values = [list(override.sweep_string_iterator()) for override in varied]
        points = [self.point(dict(zip(keys, setting, strict=True))) for setting in itertools.product(*values)]
        points = list({point.name: point for point in points}.values())
        outcomes = self.launched(points)
        self.check_metrics(points, outcomes)
