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


def on_backbone(
    voices: Voices | None, path: str, cfg: ModelConfig, layout: LayoutConfig, say: Callable[[str], object]
) -> RewardModel | None:
    """A reward model on the policy's own weights; None where it cannot be, and where the policy has no voices."""
    if voices is None:
        return None
    folder = model_folder(path, "reward")
    if (why := why_apart(voices, folder, cfg)) is not None:
        base = voices.model.adapter.base
        say(f"{path} is not on the policy's weights: {why}; stages.reward adapter=lora model.path={base} makes one")
        return None
    return RewardModel(*load_shared_scorer(folder, cfg, voices), layout)
