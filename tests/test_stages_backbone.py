"""`python -m stages.ppo adapter=lora`: one copy of the weights from the first rollout to the sealed adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command import run, stage
from peft import PeftModel
from safetensors import safe_open
from tiny_data import ROLLOUTS, STEPS
from transformers import AutoModelForCausalLM

from models.adapters import AdapterConfig
from models.chat import ChatFormat, Message
from models.layout import LayoutConfig, Tree
from models.loading import ModelConfig, load_language_model, load_policy, load_scorer
from models.scorer import score_trees
from models.sharing import load_shared_scorer, voices_of
from train.digests import folder_digests


@pytest.fixture(scope="module")
def place(tiny: Path) -> tuple[str, ...]:
    """Options of a policy with the adapter of a reward model on the same model."""
    outputs = tiny / "outputs"
    sft = f"model.path={outputs / 'tiny/sft'}"
    data = ("data=kwise", f"data.path={tiny / 'kwise.jsonl'}")
    run("reward", f"outputs={outputs}", "name=lora", *data, sft, *STEPS, "adapter=lora")
    asked = ("data=prompts", f"data.path={tiny / 'prompts.jsonl'}", "adapter=lora", *ROLLOUTS)
    return (*asked, sft, f"reward.path={outputs / 'lora/reward'}", "rl.rollouts=2", "trainer.save_every=1")


def test_a_killed_run_on_one_backbone_ends_with_the_same_adapter(place: tuple[str, ...], tmp_path: Path) -> None:
    options = (*place, f"outputs={tmp_path}")
    assert stage("ppo", *options, "name=cut", cwd=tmp_path, fault="ppo:step:3").code == -9
    with safe_open(tmp_path / "cut/ppo/checkpoints/checkpoint-2/state-00000.safetensors", "pt") as saved:
        names = {key.partition(":")[2] for key in saved.keys() if key.startswith("weight:")}
    assert any("lora_A.default" in name for name in names) and any("lora_A.critic" in name for name in names)
    assert all("lora_" in name or name.startswith("critic.value_head") for name in names)
    ended = stage("ppo", *options, "name=cut", cwd=tmp_path)
    assert ended.code == 0, ended.stderr
    assert "not on the policy's weights" not in ended.stderr
    whole = run("ppo", *options, "name=whole").folder
    one, other = (folder_digests(folder / "model") for folder in (tmp_path / "cut/ppo", whole))
    assert one == other
    with safe_open(whole / "model/adapter_model.safetensors", "pt") as sealed:
        assert {name.rpartition("lora_")[2] for name in sealed.keys()} == {"A.weight", "B.weight"}


def test_the_sealed_adapter_loads_in_plain_peft(place: tuple[str, ...], tiny: Path, tmp_path: Path) -> None:
    sealed = run("ppo", *place, f"outputs={tmp_path}").model_folder
    base = AutoModelForCausalLM.from_pretrained(tiny / "outputs/tiny/sft/model")
    ids = torch.tensor([[5, 6, 7, 8]])
    theirs = PeftModel.from_pretrained(base, sealed)(ids).logits
    ours = load_language_model(sealed, ModelConfig(path=sealed))(ids).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_reward_model_with_weights_of_its_own_says_how_to_share(
    place: tuple[str, ...], tiny: Path, tmp_path: Path
) -> None:
    whole = f"reward.path={tiny / 'outputs/tiny/reward'}"
    ended = stage("ppo", *place, whole, f"outputs={tmp_path}", cwd=tmp_path)
    assert ended.code == 0, ended.stderr
    assert "has weights of its own" in ended.stderr and "adapter=lora" in ended.stderr


def test_a_reward_adapter_on_a_base_without_roles_shares_and_scores_as_apart(
    llama_folder: str, tiny: Path, tmp_path: Path
) -> None:
    """The embeddings of role tokens, which the base lacks, are part of the adapter."""
    data = ("data=kwise", f"data.path={tiny / 'kwise.jsonl'}", f"model.path={llama_folder}", f"outputs={tmp_path}")
    folder, cfg = run("reward", *data, *STEPS, "adapter=lora").model_folder, ModelConfig(path=llama_folder)
    policy, tokenizer = load_policy(llama_folder, cfg, AdapterConfig("lora"))
    shared, _ = load_shared_scorer(folder, cfg, voices_of(policy, llama_folder))
    tree = Tree.of(ChatFormat(tokenizer).prompt([Message("user", "what is 3 + 4 ?")]), [[5, 6], [7]])
    apart = [load_scorer(folder, cfg)[0] for _ in range(2)]
    ours, *theirs = (score_trees(model, [tree], LayoutConfig()) for model in (shared, *apart))
    for scores in theirs:
        torch.testing.assert_close(scores, ours, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("more", [("adapter=full",), ("trainer.gradient_checkpointing=true",)])
def test_a_critic_can_be_a_head(place: tuple[str, ...], tmp_path: Path, more: tuple[str, ...]) -> None:
    sealed = run("ppo", *place, f"outputs={tmp_path}", "rl.critic=head", *more)
    assert sealed.manifest["kind"] == "policy"


def test_one_backbone_learns_under_gradient_checkpointing(place: tuple[str, ...], tmp_path: Path) -> None:
    plain, checkpointed = (
        run("ppo", *place, f"outputs={tmp_path}", f"name={more}", f"trainer.gradient_checkpointing={more}")
        for more in ("false", "true")
    )
    one, other = (load_language_model(a.model_folder, ModelConfig(path="")) for a in (plain, checkpointed))
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(one(ids).logits, other(ids).logits, atol=1e-4, rtol=1e-4)
