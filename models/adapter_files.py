"""Adapters on disk: what was trained, apart from the model that it belongs to.

adapter.json: how it was made, and the folder or hub name of its base.
adapter_model.safetensors, adapter_config.json: in peft's own format where peft has the method.
token_rows.safetensors: embeddings of tokens that the base does not have.
"""

from __future__ import annotations

import copy
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from models.adapters import MERGED, ROWS, Adapted, AdapterConfig, adapt, merge
from models.errors import ArtifactError
from models.virtual_tokens import virtual_tokens
from models.voices import Voices, weights_of

RECORD, WEIGHTS, TOKEN_ROWS = "adapter.json", "adapter_model.safetensors", "token_rows.safetensors"
PREFIX = "base_model.model."  # of every name in peft's files


def save_adapter(model: PreTrainedModel, folder: Path, root: Path) -> None:
    """Write the adapter of a model that `adapt` prepared. A base below `root` is named by its relative path."""
    adapter: Adapted = model.adapter
    folder.mkdir(parents=True)
    record = {**asdict(adapter.config), "new_tokens": list(adapter.new_tokens), "base": adapter.base}
    if (base := Path(adapter.base).resolve()).is_dir():
        inside = base.is_relative_to(root.resolve())
        record["base"] = os.path.relpath(base, folder.resolve()) if inside else str(base)
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    save_file({name: x.detach().cpu().contiguous() for name, x in _state(model).items()}, folder / WEIGHTS)
    if ROWS in getattr(model, "peft_config", {}):
        rows = get_peft_model_state_dict(model, adapter_name=ROWS)
        save_file({name: x.detach().cpu().contiguous().clone() for name, x in rows.items()}, folder / TOKEN_ROWS)
    if (config := _peft_config(model)) is not None:
        config.base_model_name_or_path, config.inference_mode = str(base if base.is_dir() else adapter.base), True
        config.save_pretrained(str(folder))


def read_record(folder: str) -> dict[str, Any] | None:
    """What adapter.json says, with the base's path as it can be opened; None where the folder holds no adapter."""
    path = Path(folder) / RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        base = Path(folder, record["base"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: broken ({error}); make the adapter again") from error
    return {**record, "base": str(base.resolve()) if base.is_dir() else record["base"]}


def put_adapter(model: PreTrainedModel, folder: str, record: dict[str, Any]) -> PreTrainedModel:
    """The base with the folder's adapter: in its weights where the method allows it, in its place otherwise."""
    config = config_of(record)
    adapt(model, config, record["new_tokens"], record["base"])
    weights = load_file(Path(folder) / WEIGHTS)
    if (tokens := virtual_tokens(model)) is not None:
        tokens.keep(weights.pop("prompt_embeddings"))
    elif hasattr(model, "peft_config") and "default" in model.peft_config:
        set_peft_model_state_dict(model, {name.removeprefix(PREFIX): x for name, x in weights.items()})
    _fill(model, weights)
    if record["new_tokens"]:
        set_peft_model_state_dict(model, load_file(Path(folder) / TOKEN_ROWS), adapter_name=ROWS)
    return merge(model) if config.method in MERGED else model


@torch.no_grad()
def put_voice(voices: Voices, name: str, folder: str, record: dict[str, Any]) -> Tensor:
    """A reward model's low-rank adapter as one more voice of the model that it belongs to. Returns its head, (A, H)."""
    voices.add(name, config_of(record), train=False)
    weights = {key.removeprefix(PREFIX): x for key, x in load_file(Path(folder) / WEIGHTS).items()}
    if record["new_tokens"]:
        weights |= load_file(Path(folder) / TOKEN_ROWS)
    for key, parameter in weights_of(voices.model, name).items():
        key = key.replace(".*", "")  # peft names weights without the adapter, and a magnitude without `weight`
        if (value := weights.get(key, weights.get(key.removesuffix(".weight")))) is not None:
            parameter.copy_(value)
    return weights["score.weight"]


def config_of(record: dict[str, Any]) -> AdapterConfig:
    """How the adapter of a record is made."""
    return AdapterConfig(**{name: value for name, value in record.items() if name not in ("new_tokens", "base")})


def _state(model: PreTrainedModel) -> dict[str, Tensor]:
    """What adapter_model.safetensors holds."""
    if (tokens := virtual_tokens(model)) is not None:
        own = {"prompt_embeddings": tokens.vectors()}
    elif "default" in getattr(model, "peft_config", {}):
        own = {PREFIX + name: x for name, x in get_peft_model_state_dict(model).items()}
    else:
        own = {PREFIX + name: x for name, x in model.named_parameters() if x.requires_grad and ROWS not in name}
    if hasattr(model, "score"):
        own[PREFIX + "score.weight"] = model.score.weight
    return own


def _peft_config(model: PreTrainedModel) -> PeftConfig | None:
    """Peft's description of the adapter, None where the method is not one of peft's."""
    tokens = virtual_tokens(model)
    config = tokens.config if tokens is not None else getattr(model, "peft_config", {}).get("default")
    if config is None:
        return None
    config = copy.deepcopy(config)
    for name, value in vars(config).items():
        if isinstance(value, set):  # written in any order, it would give the same artefact another digest
            setattr(config, name, sorted(value))
    config.task_type = "SEQ_CLS" if hasattr(model, "score") else "CAUSAL_LM"
    if hasattr(model, "score"):
        config.modules_to_save = ["score"]
    return config


@torch.no_grad()
def _fill(model: PreTrainedModel, weights: dict[str, Tensor]) -> None:
    """Copy what stands under a parameter's own name; peft's names are others."""
    parameters = dict(model.named_parameters())
    for name, value in weights.items():
        if (parameter := parameters.get(name.removeprefix(PREFIX))) is not None:
            parameter.copy_(value)
