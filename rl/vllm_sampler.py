"""Rollouts by vLLM, as a server or in this process, with the policy's weights of the moment.

The weights pass through files that both sides see: a LoRA adapter under a new name each time, so that nothing that was
cached for an earlier one is used, or a whole checkpoint that the engine reads in place of its own.
"""

from __future__ import annotations

import random
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from models.adapter_files import save_adapter
from models.adapters import ROWS
from models.errors import ConfigError, Unavailable
from models.generation import Sample
from models.http import NoAnswer, Service, secret
from models.partitioned import whole
from rl.samplers import SamplerConfig, Sampling

AS_ADAPTER, AS_WEIGHTS = ("lora", "rslora"), ("full", "freeze")  # methods that vLLM can follow


class Weights(NamedTuple):
    """Of the policy, as files. number: 1 of the first, one more each time."""

    folder: Path
    number: int
    adapter: bool

    @property
    def name(self) -> str:
        return f"policy-{self.number}"


class VLLMSampler(ABC):
    """What both ways have in common: each call hands over the weights, then asks."""

    def __init__(self, cfg: SamplerConfig, sampling: Sampling, folder: Path) -> None:
        self.cfg, self.sampling, self.folder = cfg, sampling, folder
        self.weights: Weights | None = None

    def generate(
        self, policy: PreTrainedModel, prompts: Sequence[list[int]], n: int, generators: Sequence[torch.Generator]
    ) -> list[Sample]:
        self._hand_over(policy)
        seeds = [int(torch.randint(2**31, (), generator=generator)) for generator in generators]
        return self._ask(prompts, n, seeds)

    @abstractmethod
    def _load(self, policy: PreTrainedModel, weights: Weights, before: Weights | None) -> None:
        """Let the engine answer by these weights from now on."""

    @abstractmethod
    def _ask(self, prompts: Sequence[list[int]], n: int, seeds: Sequence[int]) -> list[Sample]:
        """`n` responses a prompt."""

    def _hand_over(self, policy: PreTrainedModel) -> None:
        before, number = self.weights, 1 if self.weights is None else self.weights.number + 1
        weights = Weights(self.folder / f"policy-{number}", number, _method(policy) in AS_ADAPTER)
        alone = not dist.is_initialized()
        with whole(policy):
            if alone or dist.get_rank() == 0:
                _write(policy, weights)
                self._load(policy, weights, before)
                if before is not None:
                    shutil.rmtree(before.folder)
        if not alone:
            dist.barrier()
        self.weights = weights

    def _sample(self, ids: Sequence[int], logprobs: Sequence[float]) -> Sample:
        ids, ended = list(ids), bool(ids) and ids[-1] in self.sampling.ends
        return Sample(ids, ended, [0.0] * len(ids) if self.sampling.temperature == 0 else list(logprobs))


class VLLMServer(VLLMSampler):
    """`vllm serve` at an address. It is started with --logprobs-mode processed_logprobs, and sees our files."""

    def __init__(self, cfg: SamplerConfig, sampling: Sampling, folder: Path) -> None:
        super().__init__(cfg, sampling, folder)
        self.url = str(cfg.url).rstrip("/")
        self.root = self.url.removesuffix("/v1")
        self.key = secret("rl.sampler.key_env", cfg.key_env)

    def _load(self, policy: PreTrainedModel, weights: Weights, before: Weights | None) -> None:
        path = str(weights.folder.resolve())
        if weights.adapter:
            needs = "start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, and a folder that it sees"
            self._post(f"{self.url}/load_lora_adapter", {"lora_name": weights.name, "lora_path": path}, needs)
            if before is not None:
                self._post(f"{self.url}/unload_lora_adapter", {"lora_name": before.name}, needs)
            return
        needs = "start it with VLLM_SERVER_DEV_MODE=1, and a folder that it sees"
        reload = {"method": "reload_weights", "kwargs": {"weights_path": path}}
        self._post(f"{self.root}/collective_rpc", reload, needs)
        self._post(f"{self.root}/reset_prefix_cache", {}, needs)

    def _ask(self, prompts: Sequence[list[int]], n: int, seeds: Sequence[int]) -> list[Sample]:
        with ThreadPoolExecutor(self.cfg.concurrency) as pool:
            found = pool.map(lambda prompt, seed: self._complete(prompt, n, seed), prompts, seeds)
            return [answer for answers in found for answer in answers]

    def _complete(self, prompt: list[int], n: int, seed: int) -> list[Sample]:
        body = {
            "model": self.weights.name if self.weights and self.weights.adapter else self.cfg.model,
            "prompt": prompt,
            "n": n,
            "max_tokens": self.sampling.max_new_tokens,
            "temperature": self.sampling.temperature,
            **{"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0},  # the model's own may be others
            "seed": seed,
            "stop_token_ids": sorted(self.sampling.ends),
            "ignore_eos": True,  # it is one of these, where it is an end
            "logprobs": 0,  # of the token that was drawn, and of no other
            "return_token_ids": True,
            "add_special_tokens": False,
        }
        reply = self._post(f"{self.url}/completions", body, "check rl.sampler.url and rl.sampler.model", reads=True)
        try:
            choices = sorted(reply["choices"], key=lambda choice: choice["index"])
            found = [self._sample(c["token_ids"], c["logprobs"]["token_logprobs"]) for c in choices]
        except (LookupError, TypeError) as fault:
            raise ConfigError(
                f"{self.url}: a reply without token_ids and logprobs; expected vLLM 0.10.2 or later"
            ) from fault
        if len(found) != n or any(not s.ids or len(s.ids) != len(s.logprobs) for s in found):
            raise Unavailable(f"{self.url}: {len(found)} responses of {n} asked for, or not a logprob a token")
        return found

    def _post(self, url: str, body: dict[str, Any], needs: str, *, reads: bool = False) -> Any:
        try:
            return Service(url, self.cfg.limits, self.key, reads).post(body, random.Random(0))
        except NoAnswer as fault:
            if fault.status is not None and 400 <= fault.status < 500 and not fault.passes:
                raise ConfigError(f"{url}: {fault}; {needs}") from fault
            raise Unavailable(f"{url}: {fault}; the rollout is made again when the stage is queued again") from fault


class VLLMInProcess(VLLMSampler):
    """`vllm.LLM` beside the trainer on this process's GPU, asleep while the trainer works."""

    def __init__(self, cfg: SamplerConfig, sampling: Sampling, folder: Path) -> None:
        super().__init__(cfg, sampling, folder)
        try:
            import vllm  # noqa: PLC0415  an optional engine, and many seconds
        except ImportError as fault:
            raise ConfigError(
                "rl.sampler.engine=vllm: vLLM cannot be imported here; install it (it needs a GPU), name a server with "
                "rl.sampler.url=..., or use rl.sampler.engine=hf"
            ) from fault
        if dist.is_initialized() and dist.get_world_size() > 1:
            raise ConfigError(
                "rl.sampler.engine=vllm: several processes share a server; name it with rl.sampler.url=..."
            )
        self.vllm, self.engine = vllm, None

    def _load(self, policy: PreTrainedModel, weights: Weights, before: Weights | None) -> None:
        if self.engine is None:
            self.engine = self.vllm.LLM(
                model=policy.adapter.base if weights.adapter else str(weights.folder),
                enable_lora=weights.adapter,
                logprobs_mode="processed_logprobs",
                gpu_memory_utilization=self.cfg.memory,
                enable_sleep_mode=True,
                skip_tokenizer_init=True,
            )
            return
        self.engine.wake_up()
        if not weights.adapter:
            self.engine.collective_rpc("reload_weights", kwargs={"weights_path": str(weights.folder)})
            self.engine.reset_prefix_cache()

    def _ask(self, prompts: Sequence[list[int]], n: int, seeds: Sequence[int]) -> list[Sample]:
        from vllm.lora.request import LoRARequest  # noqa: PLC0415

        weights = self.weights
        params = [
            self.vllm.SamplingParams(
                n=n,
                temperature=self.sampling.temperature,
                max_tokens=self.sampling.max_new_tokens,
                stop_token_ids=sorted(self.sampling.ends),
                ignore_eos=True,
                logprobs=0,
                seed=seed,
                detokenize=False,
            )
            for seed in seeds
        ]
        lora = LoRARequest(weights.name, weights.number, str(weights.folder)) if weights.adapter else None
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        answered = self.engine.generate(asked, params, lora_request=lora, use_tqdm=False)
        self.engine.sleep(level=1)
        return [
            self._sample(o.token_ids, [at[i].logprob for at, i in zip(o.logprobs, o.token_ids, strict=True)])
            for found in answered
            for o in found.outputs
        ]


def _method(policy: PreTrainedModel) -> str:
    """How the policy is trained. Raises ConfigError where vLLM cannot follow."""
    adapter = getattr(policy, "adapter", None)
    method = "full" if adapter is None else adapter.config.method
    if method not in (*AS_ADAPTER, *AS_WEIGHTS):
        raise ConfigError(f"rl.sampler.engine=vllm: cannot follow adapter={method}; use {', '.join(AS_ADAPTER)}, or hf")
    if ROWS in getattr(policy, "peft_config", {}):
        raise ConfigError("rl.sampler.engine=vllm: cannot follow trained rows of new role tokens; use adapter=full")
    return method


def _write(policy: PreTrainedModel, weights: Weights) -> None:
    shutil.rmtree(weights.folder, ignore_errors=True)  # of a run that was cut off
    if weights.adapter:
        save_adapter(policy, weights.folder, weights.folder)
    else:
        policy.save_pretrained(weights.folder)
