"""Models and prompts for the benchmarks of RL: python -m bench.rollout_material <folder> <file> <prompts> <size>

Writes model/ (the policy), reward/ (three axes on the same backbone), reward-lora/ (the same as an adapter of the
policy), scorer/ (their sum as TRL takes it), prompts.jsonl (for ours), prompts.json (the same as ids and as
conversations, for TRL), responses.json (made up, eight a prompt, to be replayed), facts.json and peak.json.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from bench.material import SIZES, make_model, write_peak
from bench.one_label import one_label
from instruct.prompts import PromptData, read_prompts
from models.adapter_files import save_adapter
from models.adapters import AdapterConfig
from models.chat import ChatFormat, Message, Prompt
from models.loading import ModelConfig, load_policy
from models.scorer import reward_model_from

LONGEST = 192  # tokens of a prompt
SAMPLES = 8  # responses of a prompt where they are compared with each other
RESPONSE = {"10m": 48, "tiny": 8}  # tokens of every response
BYTES = (3, 259)  # their ids: three special tokens stand before them
MADE_UP = "made up"


def main(folder: Path, source: str, n_prompts: int, size: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    found = list(made_up(n_prompts) if source == MADE_UP else read(source))
    texts = ("\n".join(message.content for message in prompt) for prompt in found)
    model, tokenizer = make_model(folder, texts, SIZES[size])
    chat = ChatFormat(tokenizer)
    never_ending(model, tokenizer.all_special_ids)
    model.save_pretrained(folder / "model")
    reward_model = reward_model_from(model, tokenizer, torch.Generator().manual_seed(0))
    for name, scorer in {"reward": reward_model, "scorer": one_label(reward_model)}.items():
        scorer.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    save_reward_adapter(folder)
    asked = [(prompt, ids) for prompt in found if len(ids := chat.prompt(prompt)) <= LONGEST][:n_prompts]
    rows = [[{"role": m.role, "content": m.content} for m in prompt] for prompt, _ in asked]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": row}) + "\n" for row in rows))
    prompts = [ids for _, ids in asked]
    (folder / "prompts.json").write_text(json.dumps({"ids": prompts, "conversations": rows}))
    (folder / "responses.json").write_text(json.dumps(responses(len(prompts), RESPONSE[size])))
    (folder / "facts.json").write_text(json.dumps(facts(model, prompts, RESPONSE[size])))
    write_peak(folder, quick=size == "tiny")


def read(source: str) -> Iterator[Prompt]:
    """Every prompt of hh-rlhf once."""
    data = PromptData(path=source, eval_fraction=0.0, on_duplicate_id="keep")
    yield from dict.fromkeys(read_prompts(data).train)


def made_up(n: int) -> Iterator[Prompt]:
    for i in range(n):
        yield (Message("user", f"Count to {i} , please , " + "and go on " * (i % 5) + "."),)


def save_reward_adapter(folder: Path) -> None:
    """A reward model that can share the policy's backbone: its low-rank updates are as yet none, its head is drawn."""
    policy, tokenizer = load_policy(str(folder / "model"), ModelConfig(), AdapterConfig("lora"))
    reward_model = reward_model_from(policy, tokenizer, torch.Generator().manual_seed(0))
    place = folder / "reward-lora"
    shutil.rmtree(place, ignore_errors=True)
    save_adapter(reward_model, place, root=folder)
    tokenizer.save_pretrained(place)


@torch.no_grad()
def never_ending(model: LlamaForCausalLM, ends: Sequence[int]) -> None:
    """Make these tokens all but impossible, so that every response has its full length, whoever samples it.

    The first hidden unit is held at a constant, and weighs against them in the output layer.
    """
    model.model.embed_tokens.weight[:, 0] = 0.5
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight[0] = 0
        layer.mlp.down_proj.weight[0] = 0
    model.lm_head.weight[list(ends), 0] = -10.0


def responses(n: int, length: int) -> list[list[list[int]]]:
    """Ids of single bytes at random, the same for the same numbers. (n, SAMPLES, length)"""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(*BYTES, (n, SAMPLES, length), generator=generator).tolist()


def facts(model: LlamaForCausalLM, prompts: Sequence[list[int]], length: int) -> dict[str, object]:
    """Counts, and the FLOPs of one forward over everything that the mathematics needs, with one response a prompt and
    with several: every prompt once, the output layer at responses alone."""
    layers, hidden = model.config.num_hidden_layers, model.config.hidden_size
    output = model.get_output_embeddings().weight.numel()
    inner = model.num_parameters() - output - model.get_input_embeddings().weight.numel()
    forward = {}
    for n in (1, SAMPLES):
        tokens = sum(len(prompt) + n * length for prompt in prompts)
        squares = sum(len(prompt) ** 2 + n * length * (2 * len(prompt) + length) for prompt in prompts)
        forward[n] = {
            "samples": n * len(prompts),
            "targets": n * len(prompts) * length,
            "body": 2 * inner * tokens + 2 * layers * hidden * squares,
            "output": 2 * output * n * len(prompts) * length,
        }
    return {
        "parameters": model.num_parameters(),
        "prompts": len(prompts),
        "prompt_tokens": sum(map(len, prompts)),
        "response": length,
        "forward": forward,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])
