"""How often weights are gathered under ZeRO-3 while a policy samples. By torchrun: python zero3_rollout.py <model>"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

GATHERS: list[int] = []
gather = dist.all_gather_into_tensor


def counted(*args: Any, **options: Any) -> Any:
    """In the place of the collective before DeepSpeed takes hold of it."""
    GATHERS.append(1)
    return gather(*args, **options)


dist.all_gather_into_tensor = counted

import deepspeed  # noqa: E402

from models.generation import sample  # noqa: E402
from rl.samplers import HFSampler, Sampling  # noqa: E402

PROMPTS, NEVER = [[5, 6, 7], [8, 9, 10, 11]], 999
OPTIONS = {"max_new_tokens": 8, "temperature": 0.0}


def main(folder: str) -> None:
    deepspeed.init_distributed("gloo", verbose=False)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    expected = sample(model, PROMPTS, ends=[NEVER], **OPTIONS)
    zero = {"stage": 3, "stage3_param_persistence_threshold": 0}
    adam = {"type": "Adam", "params": {"lr": 1e-2, "torch_adam": True}}
    config = {"train_batch_size": 2, "zero_optimization": zero, "optimizer": adam}
    engine, *_ = deepspeed.initialize(model=model, config={**config, "zero_force_ds_cpu_optimizer": False})
    GATHERS.clear()
    sampler, asked = HFSampler(Sampling(ends=[NEVER], **OPTIONS)), PROMPTS if dist.get_rank() == 0 else []
    found = sampler.generate(model, asked, 1, [torch.Generator() for _ in asked])
    once = len(GATHERS)
    sample(model, PROMPTS, ends=[NEVER], **OPTIONS)
    ids = torch.tensor([PROMPTS[1]])
    losses = [step(engine, ids) for _ in range(2)]
    partitioned = all(weight.numel() == 0 for weight in model.parameters())
    told = {"same": found == expected, "once": once, "plain": len(GATHERS) - once, "losses": losses}
    if dist.get_rank() == 0:
        print("\n" + json.dumps({**told, "partitioned": partitioned, "weights": len(list(model.parameters()))}))


def step(engine: Any, ids: torch.Tensor) -> float:
    loss = engine(input_ids=ids, labels=ids).loss
    engine.backward(loss)
    engine.step()
    return float(loss)


if __name__ == "__main__":
    main(sys.argv[1])
