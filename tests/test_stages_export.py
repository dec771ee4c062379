"""An exported folder stands alone: plain transformers answers with it as stages.chat does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command import refused, run, stage
from test_stages_methods import tuned
from tiny_data import RANKINGS, STEPS, written
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from models.errors import ArtifactError
from models.loading import ModelConfig, load_scorer
from models.ollama import go_template, modelfile

QUESTION = "what is the capital of peru ?"


def exported(path: str, folder: Path) -> Path:
    return run("export", f"outputs={folder}", "name=out", f"model.path={path}").folder / "model"


def plain_answer(folder: Path) -> str:
    """What `generate` of plain transformers says, greedily."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ids = model.generate(**asked, max_new_tokens=12, do_sample=False)[0, asked["input_ids"].shape[1] :]
    return tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("method", ["full", "lora", "ln_tuning"])
def test_plain_transformers_answers_as_chat_does(llama_folder: str, tmp_path: Path, method: str) -> None:
    sft = tuned(method, llama_folder, tmp_path)
    folder = exported(sft, tmp_path)
    ended = stage(
        "chat", f"model.path={sft}", "temperature=0", "max_new_tokens=12", cwd=tmp_path, stdin=f"{QUESTION}\n"
    )
    assert ended.code == 0
    assert plain_answer(folder) == ended.stdout.strip() != ""


def test_the_folder_says_where_it_came_from(llama_folder: str, tmp_path: Path) -> None:
    folder = exported(tuned("lora", llama_folder, tmp_path), tmp_path)
    card = (folder / "README.md").read_text()
    assert "| sft | lora, learning rate 0.01 |" in card and "alpaca.jsonl" in card and "rows: 22" in card
    found = (folder / "Modelfile").read_text()
    assert found.startswith("FROM .\nTEMPLATE ") and 'PARAMETER stop "<|end|>"' in found
    assert not (folder / "adapter.json").exists()
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"]


def test_a_reward_model_on_an_adapter_is_exported_too(llama_folder: str, tmp_path: Path) -> None:
    data = ("data=kwise", f"data.path={written(tmp_path / 'kwise.jsonl', RANKINGS)}", "adapter=lora")
    sft = tuned("lora", llama_folder, tmp_path)
    reward = run("reward", f"outputs={tmp_path}", "name=lora", f"model.path={sft}", *data, *STEPS).folder
    folder = exported(str(reward), tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ours, _ = load_scorer(f"{reward}/model", ModelConfig(path="-"))
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.allclose(model(input_ids=ids).logits, ours.eval()(input_ids=ids).logits, atol=1e-5)
    assert model.config.reward_std == ours.config.reward_std
    assert not (folder / "Modelfile").exists()


def test_what_is_no_plain_model_is_refused(llama_folder: str, tmp_path: Path) -> None:
    sft = tuned("prompt", llama_folder, tmp_path)
    line = refused(ArtifactError, "export", f"outputs={tmp_path}", "name=out", f"model.path={sft}")
    assert "prompt" in line and "adapter=lora" in line


def test_chatml_in_the_language_of_ollama(qwen2_folder: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(qwen2_folder)
    assert go_template(tokenizer) == (
        '{{- range .Messages }}{{ if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "assistant" }}<|im_start|>assistant\n{{ .Content }}<|im_end|>\n'
        "{{ end }}{{ end }}<|im_start|>assistant\n"
    )


def test_a_template_that_counts_turns_is_left_to_ollama(llama_folder: str) -> None:
    other = AutoTokenizer.from_pretrained(llama_folder)
    other.chat_template = (
        "{% for m in messages %}{{ loop.index ~ m['content'] ~ '</s>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '>' }}{% endif %}"
    )
    assert go_template(other) is None
    generation = AutoModelForCausalLM.from_pretrained(llama_folder).generation_config
    assert "has to know it by itself" in modelfile(other, generation)
