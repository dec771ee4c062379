"""Who answers the prompts of a rollout: the policy in this process, or vLLM with the policy's weights."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from transformers import PreTrainedModel

from models.errors import ConfigError, check_choice
from models.generation import Sample, sample
from models.http import Limits, check_address, secret
from models.options import RUNTIME
from models.partitioned import whole
from rl.mismatch import CORRECTIONS

ENGINES = ("hf", "vllm")


@dataclass
class SamplerConfig:
    """`rl.sampler`"""

    engine: str = "hf"  # hf: the policy itself; vllm: an engine with its weights, at `url` or else in this process
    url: str | None = None  # of a vLLM server, as http://localhost:8000/v1; it reads the weights from our files
    model: str | None = None  # what the server calls the policy's model
    key_env: str = field(default="VLLM_API_KEY", metadata=RUNTIME)  # the environment variable that holds its key
    concurrency: int = field(default=16, metadata=RUNTIME)  # requests under way at the server at once
    memory: float = field(default=0.4, metadata=RUNTIME)  # share of the GPU's memory for vLLM in this process
    batch_size: int = field(default=128, metadata=RUNTIME)  # responses that hf generates at once
    correction: str | None = None  # of sampler mismatch: none, token or sequence; null: token for vllm, none for hf
    cap: float = 2.0  # on a token's weight; a response's is between 1 / cap and cap, or it has none
    limits: Limits = field(default_factory=Limits, metadata=RUNTIME)

    def __post_init__(self) -> None:
        check_choice("rl.sampler.engine", self.engine, ENGINES)
        check_choice("rl.sampler.correction", self.correction, (None, *CORRECTIONS))
        if self.cap < 1:
            raise ConfigError(f"rl.sampler.cap={self.cap}: expected at least 1")
        if not 0 < self.memory < 1:
            raise ConfigError(f"rl.sampler.memory={self.memory}: expected above 0 and below 1")
        for name in ("concurrency", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"rl.sampler.{name}={getattr(self, name)}: expected at least 1")
        if self.engine == "hf" and self.url is not None:
            raise ConfigError("rl.sampler.url: not read by rl.sampler.engine=hf; say rl.sampler.engine=vllm")
        if self.url is not None:
            check_address("rl.sampler.url", self.url)
            secret("rl.sampler.key_env", self.key_env)
            if self.model is None:
                raise ConfigError("rl.sampler.model has no value; say what the server at rl.sampler.url calls it")

    @property
    def how(self) -> str:
        """The correction that is meant."""
        return self.correction or ("token" if self.engine == "vllm" else "none")


@dataclass(frozen=True)
class Sampling:
    """What is asked of every response."""

    ends: Collection[int]
    max_new_tokens: int
    temperature: float


class Sampler(Protocol):
    """Answers prompts as the policy is at that moment."""

    def generate(
        self, policy: PreTrainedModel, prompts: Sequence[list[int]], n: int, generators: Sequence[torch.Generator]
    ) -> list[Sample]:
        """`n` responses a prompt, those of a prompt in a row. generators: one a prompt. Every process must call it."""


def load_sampler(cfg: SamplerConfig, sampling: Sampling, folder: Path) -> Sampler:
    """The sampler that the options name. folder: of the run, where weights may be written for it."""
    if cfg.engine == "hf":
        return HFSampler(sampling, cfg.batch_size)
    from rl.vllm_sampler import VLLMInProcess, VLLMServer  # noqa: PLC0415  they need the protocol above

    return (VLLMInProcess if cfg.url is None else VLLMServer)(cfg, sampling, folder / "sampler")


@dataclass(frozen=True)
class HFSampler:
    """The policy itself."""

    sampling: Sampling
    batch_size: int = 128

    def generate(
        self, policy: PreTrainedModel, prompts: Sequence[list[int]], n: int, generators: Sequence[torch.Generator]
    ) -> list[Sample]:
        with whole(policy):  # not token by token
            return sample(
                policy,
                prompts,
                n=n,
                max_new_tokens=self.sampling.max_new_tokens,
                ends=self.sampling.ends,
                temperature=self.sampling.temperature,
                generator=generators,
                batch_size=self.batch_size,
            )
