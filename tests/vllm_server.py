"""A server that answers vLLM's protocol with a tiny model of ours: completions, adapters and weights at run time."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from teacher_server import Behaviour, giving
from transformers import AutoModelForCausalLM, PreTrainedModel

from models.adapter_files import put_adapter, read_record
from models.generation import sample


class Engine:
    """What a vLLM server holds. prepare: what it does to every model that it loads, as to round it."""

    def __init__(self, base: str, prepare: Callable[[PreTrainedModel], PreTrainedModel] = lambda model: model) -> None:
        self.base, self.prepare = base, prepare
        self.models = {"base": self._loaded(base)}
        self.paths: list[str] = []

    def __call__(self, number: int, body: Any) -> Behaviour:
        def answer(handler: Any) -> None:
            self.paths.append(handler.path)
            act = {
                "/v1/completions": self.complete,
                "/v1/load_lora_adapter": self.load,
                "/v1/unload_lora_adapter": self.unload,
                "/collective_rpc": self.reload,
                "/reset_prefix_cache": lambda _: "",
            }[handler.path]
            giving(act(body))(handler)

        return answer

    def _loaded(self, folder: str) -> PreTrainedModel:
        return self.prepare(AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa"))

    def complete(self, body: dict[str, Any]) -> str:
        model, ends = self.models[body["model"]], body["stop_token_ids"]
        found = sample(
            model,
            [body["prompt"]],
            n=body["n"],
            max_new_tokens=body["max_tokens"],
            ends=ends,
            temperature=body["temperature"],
            generator=torch.Generator().manual_seed(body["seed"]),
        )
        choices = [
            {
                "index": index,
                "text": "",
                "finish_reason": "stop" if s.ended else "length",
                "token_ids": s.ids,
                "logprobs": {"token_logprobs": s.logprobs, "tokens": [], "text_offset": [], "top_logprobs": []},
            }
            for index, s in enumerate(found)
        ]
        return json.dumps({"id": "cmpl-1", "object": "text_completion", "choices": choices[::-1]})

    def load(self, body: dict[str, Any]) -> str:
        path = body["lora_path"]
        self.models[body["lora_name"]] = self.prepare(put_adapter(self._loaded(self.base), path, read_record(path)))
        return f"Success: LoRA adapter '{body['lora_name']}' added successfully"

    def unload(self, body: dict[str, Any]) -> str:
        del self.models[body["lora_name"]]
        return f"Success: LoRA adapter '{body['lora_name']}' removed successfully"

    def reload(self, body: dict[str, Any]) -> str:
        assert body["method"] == "reload_weights"
        self.models["base"] = self._loaded(body["kwargs"]["weights_path"])
        return json.dumps({"results": [None]})
