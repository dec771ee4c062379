"""From a folder (or a hub name) to a model and its tokenizer, refusing what cannot be right before weights load."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from omegaconf import MISSING
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from models.adapter_files import put_adapter, read_record
from models.adapters import AdapterConfig, adapt
from models.attention import BY_TREE
from models.chat import add_chat_template
from models.devices import working_device
from models.errors import ArtifactError, ConfigError
from models.options import INPUT
from models.quantised import exact_on_cpu, nf4
from models.scorer import scorer_on
from models.virtual_tokens import virtual_tokens

T = TypeVar("T")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class ModelConfig:
    """Which model a stage starts from, and what its files may do."""

    path: str = field(default=MISSING, metadata=INPUT)  # an artefact of a stage, a transformers folder, or a hub name
    dtype: str = "float32"  # of the weights: float32, bfloat16 or float16
    chat_template: str | None = field(default=None, metadata=INPUT)  # Jinja file for a base without; null: role tokens
    allow_pickle: bool = False  # load .bin or .pt weights (tensors only, never code)
    trust_remote_code: bool = False  # run the Python files that a model folder brings

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"model.dtype={self.dtype}: expected one of {', '.join(DTYPES)}")


def load_tokenizer(folder: str, cfg: ModelConfig) -> PreTrainedTokenizerBase:
    """The folder's tokenizer, with a chat template where `cfg` names one. It must have an end-of-text token."""
    tokenizer = _read_tokenizer(folder, cfg)
    if tokenizer.eos_token_id is None:
        raise ArtifactError(f"{folder}: the tokenizer has no end-of-text token; set eos_token in tokenizer_config.json")
    if cfg.chat_template is not None:
        try:
            template = Path(cfg.chat_template).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConfigError(f"model.chat_template={cfg.chat_template}: cannot be read ({error})") from error
        if tokenizer.chat_template not in (None, template):
            raise ArtifactError(
                f"{folder}: its chat template has digest {template_digest(tokenizer.chat_template)}, "
                f"model.chat_template {cfg.chat_template} has {template_digest(template)}; a later stage keeps its "
                "parent's"
            )
        tokenizer.chat_template = template
    return tokenizer


def load_policy(
    folder: str, cfg: ModelConfig, adapter: AdapterConfig | None = None, *, quantised: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer, with chat tokens added (new rows at the mean of the old ones).

    adapter: how it will be trained; None: not at all. quantised: its weights in NF4, as adapter=qlora has them.
    """
    language_config(folder, cfg)  # what can be refused is refused before anything large is read
    tokenizer = load_tokenizer(folder, cfg)
    quantised = quantised or (adapter is not None and adapter.quantised)
    model = load_language_model(folder, cfg, quantised=quantised)
    _check_sizes(folder, model, tokenizer)
    n_old = len(tokenizer)
    n_added = add_chat_template(tokenizer)
    grow(model, len(tokenizer))
    _start_at_mean(model, n_old, n_added)
    if adapter is not None:
        adapt(model, adapter, range(n_old, n_old + n_added), folder)
    return model, tokenizer


def load_language_model(folder: str, cfg: ModelConfig, *, quantised: bool = False) -> PreTrainedModel:
    """A causal language model as its folder holds it, an adapter on its base included. quantised: weights in NF4."""
    config = language_config(folder, cfg)
    if (record := read_record(folder)) is not None:
        if quantised and record["method"] != "qlora":
            raise ConfigError(
                f"{folder}: adapter=qlora takes a whole model, this is an adapter; stages.export it first"
            )
        base = load_language_model(record["base"], cfg, quantised=record["method"] == "qlora")
        return put_adapter(grow(base, config.vocab_size), folder, record)
    options = _load_options(cfg) | ({"quantization_config": nf4()} if quantised else {})
    model = _read_weights(folder, AutoModelForCausalLM.from_pretrained, config=config, **options)
    return exact_on_cpu(model) if quantised else model


def load_scorer(folder: str, cfg: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A trained reward model and its tokenizer."""
    config, tokenizer = scorer_config(folder, cfg), load_tokenizer(folder, cfg)
    if (record := read_record(folder)) is not None:
        base = load_language_model(record["base"], cfg, quantised=record["method"] == "qlora")
        model = put_adapter(scorer_on(grow(base, config.vocab_size), config), folder, record)
    else:
        read = AutoModelForSequenceClassification.from_pretrained
        model = _read_weights(folder, read, config=config, **_load_options(cfg))
    if not hasattr(model, "score"):
        raise ArtifactError(
            f"{folder}: {type(model).__name__} has no head `score` that reads a last token; use a reward model on a "
            "causal language model"
        )
    text = model.config.get_text_config()
    if text.pad_token_id is None:  # its own forward takes no batch without one; the scores that are read need none
        text.pad_token_id = tokenizer.eos_token_id
    _check_sizes(folder, model, tokenizer)
    return model, tokenizer


def speaks_chat(folder: str, cfg: ModelConfig) -> bool:
    """Whether a classifier's tokenizer has a chat template, or is given one, so that `load_scorer` is for it."""
    scorer_config(folder, cfg)
    return cfg.chat_template is not None or _read_tokenizer(folder, cfg).chat_template is not None


def load_classifier(folder: str, cfg: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A sequence classifier of any kind, an encoder too, and the tokenizer by which it reads texts, able to pad."""
    config, tokenizer = scorer_config(folder, cfg), _read_tokenizer(folder, cfg)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise ArtifactError(f"{folder}: the tokenizer has no padding token; set pad_token in tokenizer_config.json")
    config.get_text_config().pad_token_id = tokenizer.pad_token_id
    read, options = AutoModelForSequenceClassification.from_pretrained, _load_options(cfg)
    model = _read_weights(folder, read, config=config, **{**options, "attn_implementation": None})
    _check_sizes(folder, model, tokenizer)
    return model, tokenizer


def grow(model: PreTrainedModel, n_tokens: int) -> PreTrainedModel:
    """The model with embeddings for at least so many tokens."""
    if n_tokens > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(n_tokens, mean_resizing=False)
    return model


def without_dropout(config: PretrainedConfig) -> PretrainedConfig:
    """The configuration with every dropout at 0, so that old, new and reference log-probabilities compare."""
    for name, value in config.to_dict().items():
        if isinstance(value, float) and name.endswith(("dropout", "pdrop", "dropout_prob")):
            setattr(config, name, 0.0)
    return config


def template_digest(template: str | None) -> str:
    """Short digest of a chat template, `none` where there is none."""
    return "none" if template is None else hashlib.sha256(template.encode()).hexdigest()[:12]


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Short digest of what decides token ids: vocabulary, merges, special tokens and the chat template."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["padding"] = state["truncation"] = None  # traces of its last use
    return hashlib.sha256(json.dumps([state, tokenizer.chat_template]).encode()).hexdigest()[:12]


def same_tokenizer(policy: PreTrainedTokenizerBase, scorer: PreTrainedTokenizerBase, where: str) -> None:
    """Raise ArtifactError unless both turn text into the same ids, so that a score means what training taught."""
    ours, theirs = tokenizer_digest(policy), tokenizer_digest(scorer)
    if ours != theirs:
        raise ArtifactError(
            f"{where}: the reward model's tokenizer and template have digest {theirs}, the policy's {ours}; "
            "train the reward model from the same stages.sft artefact"
        )


def max_positions(model: PreTrainedModel, default: int = 1024) -> int:
    """How many positions a text can take: those that the model was made for, less its virtual tokens."""
    made_for = getattr(model.config.get_text_config(), "max_position_embeddings", None) or default
    tokens = virtual_tokens(model)
    return made_for - (tokens.n if tokens is not None else 0)


def _load_options(cfg: ModelConfig) -> dict[str, object]:
    return {
        "dtype": DTYPES[cfg.dtype],
        "attn_implementation": BY_TREE,
        "trust_remote_code": cfg.trust_remote_code,
        **({} if cfg.allow_pickle else {"use_safetensors": True}),
    }


def language_config(folder: str, cfg: ModelConfig) -> PretrainedConfig:
    """Of a causal language model, without dropout."""
    config = without_dropout(_checked_config(folder, cfg))
    if _is_classifier(config):
        raise ArtifactError(f"{folder}: expected a language model, found a reward model ({_architecture(config)})")
    return config


def scorer_config(folder: str, cfg: ModelConfig) -> PretrainedConfig:
    """Of a classifier, without dropout."""
    config = without_dropout(_checked_config(folder, cfg))
    if not _is_classifier(config):
        raise ArtifactError(f"{folder}: expected a reward model, found a language model ({_architecture(config)})")
    return config


def _read_tokenizer(folder: str, cfg: ModelConfig) -> PreTrainedTokenizerBase:
    return _read(folder, "tokenizer", AutoTokenizer.from_pretrained, trust_remote_code=cfg.trust_remote_code)


def _checked_config(folder: str, cfg: ModelConfig) -> PretrainedConfig:
    path = Path(folder)
    if not path.is_dir():
        if path.exists() or folder.startswith(("/", ".", "~")) or folder.count("/") > 1:
            raise ArtifactError(f"{folder}: no such model folder; check model.path")
        _ask_hub_once(folder)
    elif not (path / "config.json").is_file():
        raise ArtifactError(f"{folder}: no config.json, so not a transformers model folder")
    elif not list(path.glob("*.safetensors")) and (pickles := [*path.glob("*.bin"), *path.glob("*.pt")]):
        if not cfg.allow_pickle:
            raise ArtifactError(
                f"{pickles[0]}: pickled weights can run code and are not loaded; convert them to safetensors, or set "
                "model.allow_pickle=true to read their tensors alone"
            )
    config = _read(folder, "config.json", AutoConfig.from_pretrained, trust_remote_code=cfg.trust_remote_code)
    if getattr(config, "auto_map", None) and not cfg.trust_remote_code:
        raise ArtifactError(
            f"{folder}: brings code of its own (auto_map), not run; model.trust_remote_code=true runs it"
        )
    return config


def _ask_hub_once(name: str) -> None:
    """Whether the hub answers for a name, unless it is in the local cache; transformers asks for half a minute."""
    try:
        if not constants.HF_HUB_OFFLINE and not try_to_load_from_cache(name, "config.json"):
            HfApi().model_info(name, timeout=10)
    except Exception as error:  # a bad name, an unknown one, no network: the hub's client has a dozen kinds
        raise ArtifactError(_why_unreadable(name, "name", error)) from error


def _read(folder: str, what: str, read: Callable[..., T], **options: object) -> T:
    """What transformers reads of a folder; ArtifactError where it cannot, whatever its libraries raise."""
    try:
        return read(folder, **options)
    except Exception as error:
        if isinstance(error, MemoryError) or "memory" in str(error):
            raise
        raise ArtifactError(_why_unreadable(folder, what, error)) from error


def _read_weights(folder: str, read: Callable[..., PreTrainedModel], **options: object) -> PreTrainedModel:
    """A model where it will work. One in four bits is there already, and refuses to be moved."""
    model = _read(folder, "weights", read, **options)
    return model if getattr(model, "is_quantized", False) else model.to(working_device())


def _why_unreadable(folder: str, what: str, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return f"{folder}: brings code of its own (auto_map), not run; model.trust_remote_code=true runs it"
    if Path(folder).is_dir():
        return f"{folder}: its {what} cannot be read ({next(iter(str(error).splitlines()), type(error).__name__)})"
    return f"{folder}: no such local folder, and the hub did not answer for that name; check model.path or the network"


def _is_classifier(config: PretrainedConfig) -> bool:
    return "ForSequenceClassification" in _architecture(config)


def _architecture(config: PretrainedConfig) -> str:
    return (getattr(config, "architectures", None) or [type(config).__name__])[0]


def _check_sizes(folder: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ArtifactError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, the embeddings {rows} rows; they are of two models"
        )


@torch.no_grad()
def _start_at_mean(model: PreTrainedModel, n_old: int, n_added: int) -> None:
    """Rows of added tokens start at the mean of the old ones, with a little noise that tells them apart."""
    generator = torch.Generator().manual_seed(0)
    seen: set[int] = set()
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        weight = module.weight
        if weight.data_ptr() in seen:
            continue
        seen.add(weight.data_ptr())
        old = weight[:n_old]
        noise = torch.randn(n_added, old.shape[1], generator=generator).to(weight) * old.std(0) * 0.1
        weight[n_old : n_old + n_added] = old.mean(0) + noise
