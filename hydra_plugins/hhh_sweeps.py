"""Where Hydra looks for what `hydra/sweeper=grid` and `hydra/sweeper=optuna` name; a plugin has to live here."""

from launch.sweeps.grid import GridSweep
from launch.sweeps.search import SearchSweep


class Grid(GridSweep):
    """hydra/sweeper=grid"""


class Optuna(SearchSweep):
    """hydra/sweeper=optuna"""
