"""One copy of the weights for all models of reinforcement learning: which of them can share it, and how they do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from models.adapter_files import config_of, put_voice, read_record
from models.adapters import LORA, AdapterConfig
from models.loading import DTYPES, ModelConfig, load_tokenizer, scorer_config
from models.voices import POLICY, Backbone, Voices, can_share

REWARD, REFERENCE = "reward", "reference"


def voices_of(policy: PreTrainedModel, folder: str) -> Voices | None:
    """The voices of a policy that low-rank updates train, its reference among them; None of any other.

    folder: where the policy came from. An adapter that was trained before, and could not be merged, is the reference's.
    """
    if not can_share(policy):
        return None
    voices = Voices(policy)
    if not same_place(policy.adapter.base, folder):
        voices.add(REFERENCE, policy.adapter.config, train=False)
        voices.copy(POLICY, REFERENCE)
        voices.origin = REFERENCE
    return voices


def why_apart(voices: Voices, folder: str, cfg: ModelConfig) -> str | None:
    """Why the reward model of a folder cannot share the policy's weights; None where it can."""
    record, adapter = read_record(folder), voices.model.adapter
    if record is None or record["method"] not in LORA:
        return "it has weights of its own"
    if not same_place(record["base"], adapter.base):
        return f"its adapter belongs to {record['base']}, the policy's to {adapter.base}"
    if config_of(record).quantised != adapter.config.quantised:
        return "one of the two is in four bits"
    if record["new_tokens"] and record["new_tokens"] != list(adapter.new_tokens):
        return "it has learnt other new tokens"
    if DTYPES[cfg.dtype] != voices.model.dtype:
        return f"it is to be read in {cfg.dtype}, the policy in {voices.model.dtype}"
    return None


def same_place(one: str, other: str) -> bool:
    """Whether two names mean one model folder, or one model of the hub."""
    return Path(one).resolve() == Path(other).resolve()


class SharedScorer(Backbone):
    """A reward model on the policy's backbone, for whatever reads a reward model. Its only own weights are the head."""

    def __init__(
        self, voices: Voices, name: str, config: PretrainedConfig, adapter: AdapterConfig, head: Tensor
    ) -> None:
        super().__init__(voices, name)
        self.scorer_config, self.adapter = config, adapter
        config._attn_implementation = voices.model.config._attn_implementation
        self.score = nn.Linear(head.shape[1], head.shape[0], bias=False, dtype=voices.model.dtype)
        self.score.weight.data.copy_(head)
        self.requires_grad_(False).eval()

    @property
    def config(self) -> PretrainedConfig:
        return self.scorer_config

    def set_attn_implementation(self, name: str) -> None:
        super().set_attn_implementation(name)
        self.config._attn_implementation = name

    def forward(self, **inputs: Any) -> Any:
        self.score.to(self.device)  # the trainer moves the policy alone
        return super().forward(**inputs)


def load_shared_scorer(folder: str, cfg: ModelConfig, voices: Voices) -> tuple[SharedScorer, PreTrainedTokenizerBase]:
    """A trained reward model that `why_apart` has nothing against, as one more voice, and its tokenizer."""
    config, tokenizer, record = scorer_config(folder, cfg), load_tokenizer(folder, cfg), read_record(folder)
    name = f"{REWARD}_{len(voices.others)}"
    head = put_voice(voices, name, folder, record)
    return SharedScorer(voices, name, config, config_of(record), head), tokenizer
