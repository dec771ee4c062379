"""QLoRA: trains and generates on four-bit weights, and becomes a plain model that computes the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command import refused, run
from test_models_methods import PROMPTS, by_full_forwards
from test_stages_methods import kwise, tuned
from tiny_data import STEPS
from transformers import AutoModelForCausalLM

from models.errors import ConfigError
from models.generation import sample
from models.loading import ModelConfig, load_language_model

bitsandbytes = pytest.importorskip("bitsandbytes")


def test_four_bit_weights_train_generate_and_merge(llama_folder: str, tmp_path: Path) -> None:
    sft = tuned("qlora", llama_folder, tmp_path)
    model = load_language_model(f"{sft}/model", ModelConfig(path="-")).eval()
    kinds = {type(module).__name__ for module in model.modules()}
    assert "Params4bit" in {type(p).__name__ for p in model.parameters()} and "Linear4bit" in kinds
    found = sample(model, PROMPTS, max_new_tokens=8, ends=set(), temperature=0.0)
    assert [s.ids for s in found] == [by_full_forwards(model, prompt, 8) for prompt in PROMPTS]
    folder = run("export", f"outputs={tmp_path}", "name=out", f"model.path={sft}").folder / "model"
    plain, ids = AutoModelForCausalLM.from_pretrained(folder).eval(), torch.tensor(PROMPTS[:1])
    assert torch.allclose(plain(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-4)
    assert not any("4bit" in type(module).__name__ for module in plain.modules())


def test_a_four_bit_policy_is_gone_on_with(llama_folder: str, tmp_path: Path) -> None:
    place = (f"outputs={tmp_path}", "name=later", f"model.path={tuned('qlora', llama_folder, tmp_path)}")
    assert "adapter=qlora" in refused(ConfigError, "dpo", *place, *STEPS, *kwise(tmp_path))
    assert run("dpo", *place, "adapter=qlora", *STEPS, *kwise(tmp_path)).manifest["kind"] == "policy"
    assert run("reward", *place, "adapter=qlora", *STEPS, *kwise(tmp_path)).manifest["kind"] == "reward"


def test_an_adapter_is_no_base_for_four_bits(llama_folder: str, tmp_path: Path) -> None:
    place = (f"outputs={tmp_path}", "name=later", f"model.path={tuned('lora', llama_folder, tmp_path)}")
    assert "stages.export" in refused(ConfigError, "dpo", *place, "adapter=qlora", *STEPS, *kwise(tmp_path))
