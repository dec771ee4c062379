"""Several adapters on one copy of a model's weights: each is a voice, and one speaks at a time.

Where nothing else is said it is the policy's. Without any adapter speaks the model that the adapters were put on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from peft.tuners.trainable_tokens import TrainableTokensConfig
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.adapters import LORA, ROWS, AdapterConfig, inject_lora

POLICY = "default"


def can_share(model: PreTrainedModel) -> bool:
    """Whether other voices can stand beside the model's own: where low-rank updates are what is trained."""
    return hasattr(model, "adapter") and model.adapter.config.method in LORA


def rows_of(voice: str) -> str:
    """The adapter that holds a voice's own embeddings of new tokens."""
    return ROWS if voice == POLICY else f"{voice}_rows"


class Voices:
    """Who can speak through a model that `adapt` prepared, and who does."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.speaker = model, POLICY
        self.origin: str | None = None  # who says what the model said before it was trained; None: no adapter
        self.others: set[str] = set()  # adapters that are not the model's own
        self.look()
        model.register_state_dict_post_hook(partial(_leave_out, self.others))

    def look(self) -> None:
        """Find adapted layers and trained weights, which change with every adapter."""
        self.layers = [module for module in self.model.modules() if isinstance(module, BaseTunerLayer)]
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def add(self, name: str, cfg: AdapterConfig, *, train: bool) -> None:
        """One more low-rank adapter, which changes nothing yet, with rows of its own for the tokens that are new."""
        self.others.update((name, rows_of(name)))
        inject_lora(self.model, cfg, name)
        tokens = list(self.model.adapter.new_tokens)
        for module in self.model.modules():
            if isinstance(module, TrainableTokensLayer) and module.tied_adapter is None:
                module.update_layer(rows_of(name), config=TrainableTokensConfig(token_indices=tokens))
        own = weights_of(self.model, name).values()
        heard = weights_of(self.model.base_model, name).values()  # what an output layer adds has no gradient
        for parameter in own:
            parameter.requires_grad_(False)
        for parameter in [*self.trained, *(heard if train else ())]:  # peft freezes what it did not add
            parameter.requires_grad_(True)
        self.look()
        self._turn_to(POLICY)

    @contextmanager
    def speaking(self, name: str | None) -> Iterator[None]:
        """Inside, the model computes with one voice's adapter alone, with none where `name` is None.

        Layers that a backward pass computes a second time must be so in the same voice: see `checkpoint_activations`.
        """
        before = self.speaker
        self._turn_to(name)
        try:
            yield
        finally:
            self._turn_to(before)

    @torch.no_grad()
    def copy(self, source: str, target: str) -> None:
        """Let one voice say what another says."""
        theirs = weights_of(self.model, source)
        for name, parameter in weights_of(self.model, target).items():
            parameter.copy_(theirs[name])

    def checkpoint_activations(self, **options: Any) -> None:
        """Trade compute for memory; what is computed twice is so in the voice of the first time."""

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), self.speaking(self.speaker)

        kwargs = {"use_reentrant": False, "context_fn": contexts}
        self.model.activation_checkpointing_enable(activation_checkpointing_kwargs=kwargs, **options)

    def _turn_to(self, name: str | None) -> None:
        for layer in self.layers:
            if name is None:
                layer.enable_adapters(False)
                continue
            if layer.disable_adapters:
                layer.enable_adapters(True)
            layer.set_adapter(_called(layer, name), inference_mode=True)
        for parameter in self.trained:  # peft freezes what does not speak
            parameter.requires_grad_(True)
        self.speaker = name


def _leave_out(others: set[str], _: nn.Module, state: dict[str, Tensor], prefix: str, __: object) -> None:
    """Saved by itself a model is what it says; as a part of what is trained it is all that is."""
    for name in [] if prefix else list(state):
        if not others.isdisjoint(name.split(".")):
            del state[name]


def weights_of(model: nn.Module, voice: str) -> dict[str, nn.Parameter]:
    """A voice's own weights, by names that are the same for every voice."""
    own = {voice: "*", rows_of(voice): "*"}
    found = ((name.split("."), parameter) for name, parameter in model.named_parameters())
    return {
        ".".join(own.get(part, part) for part in parts): parameter
        for parts, parameter in found
        if not own.keys().isdisjoint(parts)
    }


def _called(layer: BaseTunerLayer, voice: str) -> list[str]:
    """What a layer calls the voice. Rows that a voice has not are the model's own."""
    if isinstance(layer, TrainableTokensLayer):
        return [name for name in layer.token_indices if name == rows_of(voice)]
    return [voice]


class Backbone(nn.Module):
    """A model's backbone as one of its voices has it, wherever a model is asked for. Holds no weights."""

    def __init__(self, voices: Voices, name: str) -> None:
        super().__init__()
        self.voices, self.name = voices, name

    @property
    def base_model(self) -> PreTrainedModel:
        return self.voices.model.base_model

    @property
    def config(self) -> Any:
        return self.base_model.config

    @property
    def device(self) -> torch.device:
        return self.base_model.device

    @property
    def is_gradient_checkpointing(self) -> bool:
        return self.base_model.is_activation_checkpointing

    def get_output_embeddings(self) -> None:
        return None

    def set_attn_implementation(self, name: str) -> None:
        self.voices.model.set_attn_implementation(name)

    def forward(self, **inputs: Any) -> Any:
        with self.voices.speaking(self.name):
            return self.base_model(**inputs)
