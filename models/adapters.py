"""Which weights a stage trains."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import nn
from transformers import PreTrainedModel

from models.errors import ConfigError

EMBEDDINGS = "embeddings"
METHODS = ("full", "freeze")


@dataclass
class AdapterConfig:
    """conf/adapter/*.yaml"""

    method: str = "full"  # full: every weight; freeze: every weight but those of `frozen`
    frozen: list[str] = field(
        default_factory=list
    )  # patterns of parameter names, as in model.layers.0.*; `embeddings` is the input embedding, whatever its name

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"adapter.method={self.method}: expected one of {', '.join(METHODS)}")
        if (self.method == "freeze") != bool(self.frozen):
            raise ConfigError(
                f"adapter.frozen={self.frozen}: expected names where adapter.method=freeze, and only there"
            )


def adapt(model: PreTrainedModel, cfg: AdapterConfig) -> PreTrainedModel:
    """Leave only the weights that `cfg` trains with a gradient. Embeddings tied to the output layer freeze with it.

    Raises ConfigError where a pattern names no weight, or where none is left to train.
    """
    if cfg.method == "full":
        return model
    for pattern in cfg.frozen:
        found = _matching(model, pattern)
        if not found:
            some = ", ".join(name for name, _ in list(model.named_parameters())[:3])
            raise ConfigError(f"adapter.frozen: {pattern} names no weight; the model's are called {some}, ...")
        for parameter in found:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(f"adapter.frozen={cfg.frozen}: nothing is left to train")
    return model


def _matching(model: PreTrainedModel, pattern: str) -> list[nn.Parameter]:
    if pattern == EMBEDDINGS:
        return list(model.get_input_embeddings().parameters())
    return [parameter for name, parameter in model.named_parameters() if fnmatchcase(name, pattern)]
