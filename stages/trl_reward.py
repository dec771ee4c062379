"""Reward models as a reward function of TRL's online trainers (GRPO, RLOO).

from stages.trl_reward import reward_function
trainer = GRPOTrainer(..., reward_funcs=reward_function("outputs/demo/reward", weights={"harmless": 2.0}))

HHH_REWARD_MODELS=outputs/demo/reward trl grpo --reward_funcs stages.trl_reward.learned_reward ...
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from models.chat import Message, Prompt
from models.errors import ConfigError
from models.layout import LayoutConfig
from models.scorer import AxisWeights
from reward.ensemble import EnsembleConfig, Replies
from stages.reward_models import load_ensemble

VARIABLE = "HHH_REWARD_MODELS"  # folders of reward models, separated as in PATH

Turns = str | Sequence[Mapping[str, Any]]  # as TRL gives them: plain text, or messages
RewardFunction = Callable[..., list[float]]


def reward_function(
    *models: str,
    weights: Mapping[str, float] | None = None,
    combine: str = "mean",
    uncertainty_coef: float = 1.0,
    name: str = "learned_reward",
) -> RewardFunction:
    """A function `(prompts, completions, **kwargs) -> list[float]` of the overall normalised score.

    models: reward artefacts or folders; several are read as one, as `combine` says. weights: of the axes. name: under
    which TRL logs it. A prompt of plain text is one user turn. Every completion is read as a whole turn.
    """
    if not models:
        raise ConfigError("reward_function() names no reward model")
    axes = AxisWeights(**(weights or {}))
    cfg = EnsembleConfig(models=list(models), combine=combine, uncertainty_coef=uncertainty_coef, weights=axes)
    judges = load_ensemble(cfg, LayoutConfig())

    def learned(prompts: Sequence[Turns], completions: Sequence[Turns], **_: object) -> list[float]:
        asked = [answered(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
        return judges.overall(judges.combined(judges.each(asked))).tolist()

    learned.__name__ = name
    return learned


def answered(prompt: Turns, completion: Turns) -> Replies:
    """A prompt and its completion as TRL gives them; of several turns in a completion, the last is judged."""
    before = (Message("user", prompt),) if isinstance(prompt, str) else turns(prompt)
    after = (Message("assistant", completion),) if isinstance(completion, str) else turns(completion)
    return Replies((*before, *after[:-1]), [after[-1].content])


def turns(messages: Sequence[Mapping[str, Any]]) -> Prompt:
    return tuple(Message(message["role"], message["content"]) for message in messages)


def learned_reward(prompts: Sequence[Turns], completions: Sequence[Turns], **kwargs: object) -> list[float]:
    """The reward function of the models that the environment variable HHH_REWARD_MODELS names."""
    return _of_environment()(prompts, completions, **kwargs)


@functools.cache
def _of_environment() -> RewardFunction:
    folders = os.environ.get(VARIABLE)
    if not folders:
        raise ConfigError(f"{VARIABLE} is not set; name the folders of reward models in it, separated by {os.pathsep}")
    return reward_function(*folders.split(os.pathsep))
