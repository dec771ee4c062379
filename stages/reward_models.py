"""From the paths of reward models to the ensemble that they are."""

from __future__ import annotations

from models.layout import LayoutConfig
from models.loading import ModelConfig, load_scorer
from reward.ensemble import EnsembleConfig, RewardEnsemble
from train.artifact import model_folder


def load_ensemble(cfg: EnsembleConfig, layout: LayoutConfig) -> RewardEnsemble:
    """The reward models that a configuration names. Each artefact is checked whole and of its kind."""
    members = [load_scorer(model_folder(path, "reward"), ModelConfig(path=path)) for path in cfg.models]
    for model, _ in members:
        model.eval().requires_grad_(False)
    return RewardEnsemble(members, cfg, layout)
