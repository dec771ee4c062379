"""Every fine-tuning method through the stages: sealed, loaded again, built upon."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command import refused, run, stage
from peft import AutoPeftModelForCausalLM
from test_models_methods import ADAPTERS, VIRTUAL
from tiny_data import INSTRUCTIONS, PROMPTS, RANKINGS, ROLLOUTS, STEPS, written
from transformers import AutoModelForCausalLM

from models.adapters import MERGED
from models.errors import ArtifactError, ConfigError
from models.loading import ModelConfig, load_language_model, load_scorer
from models.virtual_tokens import virtual_tokens
from train.digests import folder_digests

STAGES = pytest.mark.parametrize("method", ADAPTERS)


def alpaca(folder: Path) -> tuple[str, str]:
    return "data=alpaca", f"data.path={written(folder / 'alpaca.jsonl', INSTRUCTIONS)}"


def kwise(folder: Path) -> tuple[str, str]:
    return "data=kwise", f"data.path={written(folder / 'kwise.jsonl', RANKINGS)}"


def tuned(method: str, base: str, folder: Path, *options: str) -> str:
    """The folder of a method's SFT artefact, below `folder`."""
    options = (f"outputs={folder}", f"name={method}", f"adapter={method}", f"model.path={base}", *STEPS, *options)
    return str(run("sft", *options, "trainer.learning_rate=1e-2", *alpaca(folder)).folder)


@STAGES
def test_an_adapter_is_sealed_apart_from_its_base(qwen2_folder: str, tmp_path: Path, method: str) -> None:
    folder = Path(tuned(method, qwen2_folder, tmp_path)) / "model"
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert size < 0.6 * (Path(qwen2_folder) / "model.safetensors").stat().st_size
    record = json.loads((folder / "adapter.json").read_text())
    assert record["base"] == str(Path(qwen2_folder).resolve()) and record["method"] == method


@STAGES
def test_what_is_loaded_is_what_was_trained(
    gpt2_folder: str, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[str, torch.Tensor] = {}
    ids = torch.tensor([[5, 6, 7, 8]])

    def remember(model: torch.nn.Module, *_: object, **__: object) -> None:
        with torch.no_grad():
            kept["logits"] = model.eval()(input_ids=ids).logits

    from train import artifact as running

    save = running.save_adapter
    monkeypatch.setattr(running, "save_adapter", lambda model, *a, **k: (remember(model), save(model, *a, **k)))
    folder = f"{tuned(method, gpt2_folder, tmp_path)}/model"
    again = load_language_model(folder, ModelConfig(path=folder)).eval()
    assert torch.allclose(again(input_ids=ids).logits, kept["logits"], atol=1e-4)
    base = AutoModelForCausalLM.from_pretrained(gpt2_folder).eval()
    assert not torch.allclose(base(input_ids=ids).logits, kept["logits"][..., : base.config.vocab_size], atol=1e-3)
    assert (virtual_tokens(again) is not None) == (method in VIRTUAL)


@STAGES
def test_later_stages_build_upon_it(qwen2_folder: str, tmp_path: Path, method: str) -> None:
    sft = tuned(method, qwen2_folder, tmp_path)
    adapter = "full" if method in MERGED else method
    place = (f"outputs={tmp_path}", "name=later", f"model.path={sft}", f"adapter={adapter}")
    reward = run("reward", *place, *STEPS, *kwise(tmp_path)).folder
    scorer, _ = load_scorer(str(reward / "model"), ModelConfig(path="-"))
    assert scorer.config.reward_std != [1.0, 1.0, 1.0] and scorer.score.weight.abs().sum() > 0
    run("dpo", *place, *STEPS, *kwise(tmp_path))
    asked = ("data=prompts", f"data.path={written(tmp_path / 'prompts.jsonl', PROMPTS)}", f"reward.path={reward}")
    ppo = run("ppo", *place, *ROLLOUTS, *asked)
    assert ppo.manifest["kind"] == "policy"


@STAGES
def test_a_killed_run_ends_with_the_same_adapter(qwen2_folder: str, tmp_path: Path, method: str) -> None:
    options = (f"outputs={tmp_path}", f"adapter={method}", f"model.path={qwen2_folder}", *STEPS, *alpaca(tmp_path))
    options = (*options, "trainer.max_steps=3", "trainer.save_every=1")
    assert stage("sft", *options, "name=cut", cwd=tmp_path, fault="sft:step:2").code == -9
    saved = next((tmp_path / "cut/sft/checkpoints/checkpoint-1").glob("state-*.safetensors"))
    size = (Path(qwen2_folder) / "model.safetensors").stat().st_size
    assert saved.stat().st_size < 3 * 0.6 * size  # what is trained, with two moments, and not what is frozen
    assert stage("sft", *options, "name=cut", cwd=tmp_path).code == 0
    whole = run("sft", *options, "name=whole").folder
    digests = [folder_digests(folder / "model") for folder in (tmp_path / "cut/sft", whole)]
    assert digests[0] == digests[1]


def test_an_adapter_upon_an_adapter(llama_folder: str, tmp_path: Path) -> None:
    sft = tuned("lora", llama_folder, tmp_path)
    place = (f"outputs={tmp_path}", "name=lora", f"model.path={sft}", "adapter=dora")
    dpo = run("dpo", *place, *STEPS, *kwise(tmp_path)).folder
    record = json.loads((dpo / "model/adapter.json").read_text())
    assert record["base"] == "../../sft/model", "below the same outputs a path is relative, so that they move together"
    load_language_model(str(dpo / "model"), ModelConfig(path="-"))


def test_peft_loads_what_is_sealed(qwen2_folder: str, tmp_path: Path) -> None:
    folder = f"{tuned('lora', qwen2_folder, tmp_path)}/model"
    ids = torch.tensor([[5, 6, 7, 8]])
    theirs = AutoPeftModelForCausalLM.from_pretrained(folder).eval()
    ours = load_language_model(folder, ModelConfig(path=folder)).eval()
    assert torch.allclose(theirs(input_ids=ids).logits, ours(input_ids=ids).logits, atol=1e-5)


@pytest.mark.parametrize("method", ["prompt", "bottleneck"])
def test_a_method_that_cannot_be_merged_is_gone_on_with(llama_folder: str, tmp_path: Path, method: str) -> None:
    sft = tuned(method, llama_folder, tmp_path)
    place = (f"outputs={tmp_path}", "name=other", f"model.path={sft}", "adapter=lora")
    line = refused(ConfigError, "dpo", *place, *STEPS, *kwise(tmp_path))
    assert f"adapter={method}" in line and "adapter.lora" not in line


def test_a_base_that_changed_is_refused(llama_folder: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for path in Path(llama_folder).iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    sft = tuned("lora", str(base), tmp_path)
    (base / "generation_config.json").write_text("{}")
    place = (f"outputs={tmp_path}", "name=after", f"model.path={sft}")
    line = refused(ArtifactError, "dpo", *place, *STEPS, *kwise(tmp_path))
    assert str(base) in line and "moved or changed" in line


@pytest.mark.parametrize(
    ("method", "option", "instead"),
    [
        ("prefix", "trainer.gradient_checkpointing=true", "adapter=prompt"),
        ("p_tuning_v2", "trainer.gradient_checkpointing=true", "adapter=prompt"),
        ("dora", "engine=trl", "engine=ours"),
    ],
)
def test_what_excludes_each_other_is_said_at_the_start(
    llama_folder: str, tmp_path: Path, method: str, option: str, instead: str
) -> None:
    needed = (f"model.path={llama_folder}", *alpaca(tmp_path), f"outputs={tmp_path}", f"adapter={method}")
    ended = stage("sft", *needed, option, cwd=tmp_path)
    assert ended.code == 2 and instead in ended.error
