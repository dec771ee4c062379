"""From the paths of reward models to what scores responses."""

from __future__ import annotations

from collections.abc import Callable

from models.layout import LayoutConfig
from models.loading import ModelConfig, load_classifier, load_scorer, speaks_chat
from models.sharing import load_shared_scorer, why_apart
from models.voices import Voices
from reward.classifier import Classifier
from reward.ensemble import EnsembleConfig, RewardEnsemble, RewardModel
from train.artifact import model_folder


def load_ensemble(cfg: EnsembleConfig, layout: LayoutConfig) -> RewardEnsemble:
    """The reward models that a configuration names. Each artefact is checked whole and of its kind."""
    members = [load_reward_model(path, ModelConfig(path=path), layout) for path in cfg.models]
    return RewardEnsemble(members, cfg)


def load_reward_model(path: str, cfg: ModelConfig, layout: LayoutConfig) -> RewardModel:
    """A reward model that reads conversations."""
    model, tokenizer = load_scorer(model_folder(path, "reward"), cfg)
    return RewardModel(model.eval().requires_grad_(False), tokenizer, layout)


def load_any_classifier(path: str, cfg: ModelConfig, layout: LayoutConfig, reads: str) -> RewardModel | Classifier:
    """A reward model where its tokenizer has a chat template; else a classifier of plain texts, which `reads` so."""
    folder = model_folder(path, "reward")
    if speaks_chat(folder, cfg):
        return load_reward_model(path, cfg, layout)
    model, tokenizer = load_classifier(folder, cfg)
    return Classifier(model.eval().requires_grad_(False), tokenizer, reads=reads)


def load_on_policy(
    path: str, cfg: ModelConfig, layout: LayoutConfig, voices: Voices, say: Callable[[str], object]
) -> RewardModel | None:
    """A reward model as a voice of the policy, on one copy of the weights. None where it cannot, which is said."""
    folder = model_folder(path, "reward")
    if apart := why_apart(voices, folder, cfg):
        say(
            f"{path} has a copy of the weights: {apart}; one on the policy's own is trained with "
            f"stages.reward model.path={voices.model.adapter.base} adapter={voices.model.adapter.config.method}"
        )
        return None
    return RewardModel(*load_shared_scorer(folder, cfg, voices), layout)
