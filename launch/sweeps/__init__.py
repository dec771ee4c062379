"""Sweeps: the points of a grid or of a search, each an experiment of its own, through any of Hydra's launchers."""
