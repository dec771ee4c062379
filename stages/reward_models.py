"""From the paths of reward models to the ensemble that they are."""

from __future__ import annotations

from models.layout import LayoutConfig
from models.loading import ModelConfig, load_scorer
from reward.ensemble import EnsembleConfig, RewardEnsemble, RewardModel
from train.artifact import model_folder


def load_ensemble(cfg: EnsembleConfig, layout: LayoutConfig) -> RewardEnsemble:
    """The reward models that a configuration names. Each artefact is checked whole and of its kind."""
    members = []
    for path in cfg.models:
        model, tokenizer = load_scorer(model_folder(path, "reward"), ModelConfig(path=path))
        members.append(RewardModel(model.eval().requires_grad_(False), tokenizer, layout))
    return RewardEnsemble(members, cfg)
