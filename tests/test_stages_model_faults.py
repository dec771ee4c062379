"""Models that do not fit, as a stage meets them from outside: 4, one line, nothing of theirs run; or the right ids."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command import run, stage
from tiny_data import INSTRUCTIONS, PROMPTS, ROLLOUTS, sft, written
from transformers import AutoTokenizer

from train.digests import folder_digests


def copied(folder: str, place: Path) -> Path:
    return Path(shutil.copytree(folder, place / "model"))


def edited(path: Path, **changes: object) -> None:
    """A JSON file with these keys changed."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def tuned(folder: Path, model: str | Path, *options: str) -> tuple[str, ...]:
    return sft(folder, model, written(folder / "alpaca.jsonl", INSTRUCTIONS), *options)


def test_a_tokenizer_larger_than_the_embeddings_ends_with_4_and_both_sizes(tmp_path: Path, llama_folder: str) -> None:
    folder = copied(llama_folder, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = len(tokenizer)
    tokenizer.add_tokens(["one", "two"])
    tokenizer.save_pretrained(folder)
    ended = stage("sft", *tuned(tmp_path, folder), cwd=tmp_path)
    assert ended.code == 4 and f"{rows + 2} tokens, the embeddings {rows} rows" in ended.error


def test_a_tokenizer_without_an_end_ends_with_4(tmp_path: Path, llama_folder: str) -> None:
    folder = copied(llama_folder, tmp_path)
    edited(folder / "tokenizer_config.json", eos_token=None)
    ended = stage("sft", *tuned(tmp_path, folder), cwd=tmp_path)
    assert ended.code == 4 and "no end-of-text token" in ended.error and str(folder) in ended.error


def test_padding_changes_nothing_that_is_learnt_or_scored(tmp_path: Path, qwen2_folder: str) -> None:
    """Without padding, with padding of its own, and with the end as padding: the same weights after training, so the
    end is learnt, and the same scores."""
    weights, losses = [], []
    for name, token in (("none", None), ("own", "<|endoftext|>"), ("end", "<|im_end|>")):
        folder = copied(qwen2_folder, tmp_path / name)
        edited(folder / "tokenizer_config.json", pad_token=token)
        made = run("sft", *tuned(tmp_path, folder, f"name={name}"), "data.eval_fraction=0.3")
        weights.append(folder_digests(made.folder / "model")["model.safetensors"])
        losses.append(made.manifest["metrics"]["eval_nll"])
    assert len(set(weights)) == 1 and len(set(losses)) == 1


def test_a_reward_model_of_another_tokenizer_reads_texts_and_no_critic_starts_as_it(
    tmp_path: Path, tiny: Path, qwen2_folder: str
) -> None:
    asked = ("data=prompts", f"data.path={written(tmp_path / 'prompts.jsonl', PROMPTS)}")
    reward = f"reward.path={tiny / 'outputs/tiny/reward'}"
    ended = stage("ppo", f"model.path={qwen2_folder}", reward, *asked, *ROLLOUTS, cwd=tmp_path)
    assert ended.code == 0 and "another tokenizer or template than the policy" in ended.stderr
    assert "the critic starts as the policy" in ended.stderr


def test_evaluation_scores_the_text_of_a_model_with_another_tokenizer(
    tmp_path: Path, tiny: Path, qwen2_folder: str
) -> None:
    asked = ("data=prompts", f"data.path={written(tmp_path / 'prompts.jsonl', PROMPTS)}", "max_new_tokens=4")
    models = (f"models.sft={qwen2_folder}", f"reward={tiny / 'outputs/tiny/reward'}")
    ended = stage("evaluate", *models, *asked, f"outputs={tmp_path / 'out'}", cwd=tmp_path)
    assert ended.code == 0 and "sft: another tokenizer than the reward model's" in ended.stderr


@pytest.mark.parametrize("kind", ["of its own", "llama"])
def test_code_that_a_model_folder_brings_is_not_run_and_ends_with_4(
    tmp_path: Path, llama_folder: str, kind: str
) -> None:
    folder, mark = copied(llama_folder, tmp_path), tmp_path / "ran"
    (folder / "planted.py").write_text(
        f"open({str(mark)!r}, 'w')\nfrom transformers import LlamaConfig, LlamaForCausalLM\n"
        "class PlantedConfig(LlamaConfig): ...\nclass PlantedModel(LlamaForCausalLM): ...\n"
    )
    brought = {"AutoConfig": "planted.PlantedConfig", "AutoModelForCausalLM": "planted.PlantedModel"}
    edited(folder / "config.json", auto_map=brought, **({"model_type": "planted"} if kind == "of its own" else {}))
    ended = stage("sft", *tuned(tmp_path, folder), cwd=tmp_path)
    assert ended.code == 4 and "model.trust_remote_code=true" in ended.error
    assert not mark.exists()
