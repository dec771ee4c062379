"""Which weights a stage trains, and what it adds to the model for it: every fine-tuning method behind one option.

A method changes the model in place, so that everything else goes on to see the model that it knows: peft's tuners are
injected, virtual tokens enter through hooks, bottlenecks wrap projections, partial methods choose among the weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from peft import IA3Config, LNTuningConfig, LoraConfig, PeftConfig, TrainableTokensConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.bottleneck import WRITERS, insert_bottlenecks
from models.errors import ConfigError
from models.virtual_tokens import add_virtual_tokens

EMBEDDINGS = "embeddings"
ROWS = "token_rows"  # the adapter that trains the embeddings of new tokens
LORA = ("lora", "rslora", "dora", "qlora")
AT_INPUT, IN_LAYERS = ("prompt", "p_tuning"), ("prefix", "p_tuning_v2")
READS = {  # the options that each method reads
    "full": (),
    "freeze": ("frozen",),
    "bitfit": (),
    **dict.fromkeys(LORA, ("rank", "alpha", "targets")),
    "ia3": (),
    "ln_tuning": (),
    "prompt": ("tokens",),
    "p_tuning": ("tokens", "encoder"),
    "prefix": ("tokens", "encoder"),
    "p_tuning_v2": ("tokens",),
    "bottleneck": ("size", "targets"),
}
MERGED = ("bitfit", "lora", "rslora", "dora", "ia3", "ln_tuning")  # what can become part of the model's own weights


@dataclass
class AdapterConfig:
    """conf/adapter/*.yaml"""

    method: str = "full"
    frozen: list[str] = field(
        default_factory=list
    )  # patterns of parameter names, as in model.layers.0.*; `embeddings` is the input embedding, whatever its name
    rank: int = 16  # of the low-rank update
    alpha: float = 32.0  # its scale: alpha / rank, or alpha / sqrt(rank) in rslora
    targets: list[str] = field(
        default_factory=list
    )  # last names of the modules that are adapted, as in q_proj; none: every linear layer, or where a sublayer ends
    tokens: int = 16  # virtual ones
    encoder: int = 128  # hidden units of the network that makes the virtual tokens while they are trained
    size: int = 32  # of the bottleneck

    def __post_init__(self) -> None:
        if self.method not in READS:
            raise ConfigError(f"adapter.method={self.method}: expected one of {', '.join(READS)}")
        standard = {f.name: f.default_factory() if callable(f.default_factory) else f.default for f in fields(self)}
        for name in standard.keys() - {"method", *READS[self.method]}:
            if getattr(self, name) != standard[name]:
                raise ConfigError(f"adapter.{name}={getattr(self, name)}: not read by adapter.method={self.method}")
        for name in ("rank", "tokens", "encoder", "size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"adapter.{name}={getattr(self, name)}: expected at least 1")
        if not 0 < self.alpha < float("inf"):
            raise ConfigError(f"adapter.alpha={self.alpha}: expected a number above 0")
        if self.method == "freeze" and not self.frozen:
            raise ConfigError("adapter.frozen=[]: expected names of weights where adapter.method=freeze")

    @property
    def is_adapter(self) -> bool:
        """Whether what is trained is saved apart from the model that it belongs to."""
        return self.method not in ("full", "freeze")

    @property
    def quantised(self) -> bool:
        """Whether the weights below the adapter are in four bits."""
        return self.method == "qlora"

    @property
    def starts_at_model(self) -> bool:
        """Whether the model computes at first what it computed without the adapter."""
        return self.method not in (*AT_INPUT, *IN_LAYERS)

    def as_options(self) -> str:
        """How to say it on a command line."""
        read = [f"adapter.{name}={getattr(self, name)}" for name in READS[self.method]]
        return " ".join([f"adapter={self.method}", *read])

    def check(self, *, gradient_checkpointing: bool, weights_sharded: bool) -> None:
        """Raise ConfigError where it cannot work beside the other options of a stage."""
        if self.quantised and weights_sharded:
            raise ConfigError(
                f"adapter={self.method} and deepspeed=zero3 exclude each other: weights in four bits cannot be "
                "partitioned; use deepspeed=zero2, or adapter=lora"
            )
        if self.method in IN_LAYERS and gradient_checkpointing:
            raise ConfigError(
                f"adapter={self.method} keeps its tokens in the key-value cache, which transformers drops under "
                "trainer.gradient_checkpointing=true; use adapter=prompt or p_tuning, or turn it off"
            )


class Adapted(NamedTuple):
    """What `adapt` leaves at a model whose adapter is saved apart from it."""

    config: AdapterConfig
    new_tokens: tuple[int, ...]
    base: str  # folder or hub name of the model that the adapter belongs to


def adapt(
    model: PreTrainedModel, cfg: AdapterConfig, new_tokens: Sequence[int] = (), base: str = ""
) -> PreTrainedModel:
    """Prepare the model, in place, to be trained as `cfg` says. At first it computes what it computed before; virtual
    tokens alone change that.

    new_tokens: ids whose embeddings nothing has trained yet. A method that freezes the embeddings trains theirs all the
    same. A reward model's head is always trained. base: where the model came from, for the files.
    Raises ConfigError where the model has not what the method works on.
    """
    standing: Adapted | None = getattr(model, "adapter", None)
    if standing is not None and standing.config != cfg:
        raise ConfigError(
            f"adapter={cfg.method}: the model was tuned with {standing.config.method}, which cannot become part of its "
            f"weights; go on with the same one: {standing.config.as_options()}"
        )
    if standing is None:
        METHODS[cfg.method](model, cfg)
    if standing is None and cfg.is_adapter and new_tokens:
        train_rows(model, new_tokens)
    if cfg.is_adapter and hasattr(model, "score"):
        model.score.requires_grad_(True)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(f"adapter.method={cfg.method}: nothing is left to train")
    if standing is None and cfg.is_adapter:
        model.adapter = Adapted(cfg, tuple(new_tokens), base)
        model.register_state_dict_post_hook(_only_what_is_trained)
    return model


def _only_what_is_trained(model: nn.Module, state: dict[str, Tensor], prefix: str, _: object) -> None:
    """Checkpoints hold the adapter; what is frozen comes from the base again."""
    if hasattr(model, "adapter"):
        trained = {prefix + name for name, parameter in model.named_parameters() if parameter.requires_grad}
        for name in [name for name in state if name.startswith(prefix) and name not in trained]:
            del state[name]


def merge(model: PreTrainedModel) -> PreTrainedModel:
    """Put injected adapters into the weights that they adapt, in place; the model is a plain one again."""
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            above, _, last = name.rpartition(".")
            setattr(model.get_submodule(above), last, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    if hasattr(model, "adapter"):
        del model.adapter
    return model.requires_grad_(True)


def inject(model: PreTrainedModel, config: PeftConfig, name: str = "default") -> None:
    """Peft's layers in the places of the model's. What was trained so far is frozen, what they add is not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a second adapter, of tied embeddings: both are wanted
        try:
            inject_adapter_in_model(config, model, adapter_name=name)
        except ValueError as error:
            raise ConfigError(f"adapter: {error}") from error


def train_rows(model: PreTrainedModel, tokens: Sequence[int]) -> None:
    """Train the embeddings of some tokens, and their rows in the output layer."""
    modules = {id(m.weight): m for m in (model.get_output_embeddings(), model.get_input_embeddings()) if m is not None}
    names = [name for name, module in model.named_modules() if any(module is m for m in modules.values())]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    inject(model, TrainableTokensConfig(token_indices=list(tokens), target_modules=names), ROWS)
    for parameter in trained:  # peft freezes what it did not add
        parameter.requires_grad_(True)


def _full(model: PreTrainedModel, cfg: AdapterConfig) -> None:
    model.requires_grad_(True)


def _freeze(model: PreTrainedModel, cfg: AdapterConfig) -> None:
    """Embeddings that are tied to the output layer freeze with it."""
    for pattern in cfg.frozen:
        found = _matching(model, pattern)
        if not found:
            some = ", ".join(name for name, _ in list(model.named_parameters())[:3])
            raise ConfigError(f"adapter.frozen: {pattern} names no weight; the model's are called {some}, ...")
        for parameter in found:
            parameter.requires_grad_(False)


def _matching(model: PreTrainedModel, pattern: str) -> list[nn.Parameter]:
    if pattern == EMBEDDINGS:
        return list(model.get_input_embeddings().parameters())
    return [parameter for name, parameter in model.named_parameters() if fnmatchcase(name, pattern)]


def _bitfit(model: PreTrainedModel, cfg: AdapterConfig) -> None:
    """Biases alone (Ben Zaken et al. 2022)."""
    model.requires_grad_(False)
    biases = [p for name, p in model.base_model.named_parameters() if name.rpartition(".")[2] == "bias"]
    if not biases:
        raise ConfigError("adapter=bitfit trains biases, and this model has none; use adapter=ln_tuning or lora")
    for bias in biases:
        bias.requires_grad_(True)


def _lora(model: PreTrainedModel, cfg: AdapterConfig) -> None:
    """Low-rank updates (Hu et al. 2021), with their scale by √rank (Kalajdzievski 2023) or split in direction and size
    (Liu et al. 2024)."""
    inject_lora(model, cfg)
    model.is_quantized = False  # the trainer refuses a model that is, and does not see what was injected


def inject_lora(model: PreTrainedModel, cfg: AdapterConfig, name: str = "default") -> None:
    """Low-rank updates, in float32 whatever the weights are in."""
    config = LoraConfig(
        r=cfg.rank,
        lora_alpha=cfg.alpha,
        target_modules=list(cfg.targets) or "all-linear",
        exclude_modules=["score"] if hasattr(model, "score") else None,  # a reward model's head is trained as it is
        use_rslora=cfg.method == "rslora",
        use_dora=cfg.method == "dora",
    )
    inject(model, config, name)
    for path, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_" in path:
            parameter.data = parameter.data.to(torch.float32)


def _ia3(model: PreTrainedModel, cfg: AdapterConfig) -> None:
    """Learnt scales of keys, values and feed-forward activations (Liu et al. 2022)."""
    inject(model, IA3Config())


def _ln_tuning(model: PreTrainedModel, cfg: AdapterConfig) -> None:
    """Normalisation layers alone (Zhao et al. 2023)."""
    inject(model, LNTuningConfig())


def _virtual(model: PreTrainedModel, cfg: AdapterConfig) -> None:
    model.requires_grad_(False)
    add_virtual_tokens(model, cfg.method, cfg.tokens, cfg.encoder)


def _bottleneck(model: PreTrainedModel, cfg: AdapterConfig) -> None:
    model.requires_grad_(False)
    if not insert_bottlenecks(model, cfg.targets or list(WRITERS), cfg.size):
        raise ConfigError(f"adapter.targets={cfg.targets}: no module of the model has such a name")


METHODS: dict[str, Callable[[PreTrainedModel, AdapterConfig], None]] = {
    "full": _full,
    "freeze": _freeze,
    "bitfit": _bitfit,
    **dict.fromkeys(LORA, _lora),
    "ia3": _ia3,
    "ln_tuning": _ln_tuning,
    **dict.fromkeys((*AT_INPUT, *IN_LAYERS), _virtual),
    "bottleneck": _bottleneck,
}
