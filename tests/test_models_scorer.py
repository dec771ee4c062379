"""Claims about the reward model: any program that loads its folder with plain transformers reads the same scores."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from models.chat import ChatFormat, Message
from models.errors import ArtifactError
from models.layout import LayoutConfig, Tree, collate, separate
from models.loading import ModelConfig, load_policy, load_scorer, tokenizer_digest
from models.scorer import AXES, normalised, pad_apart_from_end, raw_scores, reward_model_from, score_trees

RESPONSES = ("lima .", "i do not know .", "the capital of peru is lima .", "")
LAYOUT = LayoutConfig(bin_tokens=32)


def made(folder: str, seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    policy, tokenizer = load_policy(folder, ModelConfig(path=folder))
    return reward_model_from(policy, tokenizer, torch.Generator().manual_seed(seed)).eval(), tokenizer


def trees_of(tokenizer: PreTrainedTokenizerBase) -> list[Tree]:
    chat = ChatFormat(tokenizer)
    prompts = ["what is the capital of peru ?", "how ?", "what is the capital of spain ? please be brief ."]
    responses = [chat.response(text) for text in RESPONSES]
    return [Tree.of(chat.prompt((Message("user", text),)), responses[: 2 + i]) for i, text in enumerate(prompts)]


def plain_scores(model: PreTrainedModel, trees: list[Tree]) -> Tensor:
    """One row at a time, through nothing but the model's own forward."""
    rows = [tree.prompt + response for tree in trees for response in tree.responses]
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([row])).logits for row in rows])


def test_scores_are_those_of_plain_transformers_on_the_saved_folder(any_folder: str, tmp_path: Path) -> None:
    model, tokenizer = made(any_folder)
    trees = trees_of(tokenizer)
    with torch.no_grad():
        ours = raw_scores(model, collate(trees, bin_tokens=64))
    model.save_pretrained(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert ours.shape == (2 + 3 + 4, len(AXES))
    torch.testing.assert_close(ours, plain_scores(plain, trees), atol=1e-5, rtol=0)


ENDS_WITH_END_OF_TEXT = (
    "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)


@pytest.mark.parametrize("pad", ["none", "the end of text"])
def test_plain_transformers_scores_the_end_of_a_turn_that_is_also_the_padding(
    tokenizer: PreTrainedTokenizerBase, llama_folder: str, tmp_path: Path, pad: str
) -> None:
    """Plain transformers looks for the last token that is not padding, which must not be the end that we score."""
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = ENDS_WITH_END_OF_TEXT
    if pad != "none":
        changed.pad_token = changed.eos_token
    policy, _ = load_policy(llama_folder, ModelConfig(path=llama_folder))
    model = reward_model_from(policy, changed, torch.Generator().manual_seed(0))
    trees = trees_of(changed)
    model.save_pretrained(tmp_path)
    changed.save_pretrained(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    rows = [tree.prompt + response for tree in trees for response in tree.responses]
    padded = AutoTokenizer.from_pretrained(tmp_path).pad({"input_ids": rows}, padding_side="right", return_tensors="pt")
    with torch.no_grad():
        ours = raw_scores(model, collate(trees, bin_tokens=64))
        together = plain(**padded).logits
    torch.testing.assert_close(ours, plain_scores(plain, trees), atol=1e-5, rtol=0)
    torch.testing.assert_close(ours, together, atol=1e-5, rtol=0)


def test_a_new_padding_leaves_the_tokenizer_the_policys(tokenizer: PreTrainedTokenizerBase) -> None:
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = ENDS_WITH_END_OF_TEXT
    before = tokenizer_digest(changed)
    assert pad_apart_from_end(changed) == changed.pad_token_id != changed.eos_token_id
    assert tokenizer_digest(changed) == before


def test_an_end_that_is_the_only_special_token_is_refused(gpt2_folder: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(gpt2_folder)
    tokenizer.chat_template = ENDS_WITH_END_OF_TEXT
    with pytest.raises(ArtifactError, match="add a padding token"):
        pad_apart_from_end(tokenizer)


def test_padded_batches_of_plain_transformers_score_the_same(qwen2_folder: str, tmp_path: Path) -> None:
    model, tokenizer = made(qwen2_folder)
    trees = trees_of(tokenizer)
    model.save_pretrained(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    rows = [tree.prompt + response for tree in trees for response in tree.responses]
    padded = tokenizer.pad({"input_ids": rows}, padding_side="right", return_tensors="pt")
    with torch.no_grad():
        scores = plain(**padded).logits
    torch.testing.assert_close(scores, plain_scores(plain, trees), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pad_id", [0, 1, 2, 99])
def test_the_padding_token_changes_no_score(any_folder: str, pad_id: int) -> None:
    model, tokenizer = made(any_folder)
    trees = trees_of(tokenizer)
    with torch.no_grad():
        want = raw_scores(model, collate(trees, bin_tokens=64))
        model.config.pad_token_id = pad_id
        got = raw_scores(model, collate(trees, bin_tokens=32, pad_id=pad_id))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_a_tree_scores_as_its_rows_apart_in_value_and_gradient(any_folder: str) -> None:
    model, tokenizer = made(any_folder)
    trees = trees_of(tokenizer)

    def of(rows: list[Tree]) -> tuple[Tensor, list[Tensor]]:
        model.zero_grad()
        scores = raw_scores(model, collate(rows, bin_tokens=64))
        (scores * torch.linspace(-1, 1, scores.numel()).view_as(scores)).mean().backward()
        return scores.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    together, gradients = of(trees)
    apart, gradients_apart = of([row for tree in trees for row in separate(tree)])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)
    for one, other in zip(gradients, gradients_apart, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch_tokens", [1, 20, 8192])
def test_batch_tokens_and_row_order_change_no_score(any_folder: str, batch_tokens: int) -> None:
    model, tokenizer = made(any_folder)
    trees, order = trees_of(tokenizer), [2, 0, 1]
    want = score_trees(model, trees, LAYOUT).split([2, 3, 4])
    got = score_trees(model, [trees[i] for i in order], LAYOUT, batch_tokens).split([4, 2, 3])
    for place, i in enumerate(order):
        torch.testing.assert_close(got[place], want[i], atol=1e-5, rtol=0)


def test_no_trees_have_no_scores(llama_folder: str) -> None:
    assert score_trees(made(llama_folder)[0], [], LAYOUT).shape == (0, len(AXES))


def test_normalisation_shifts_and_scales_each_axis(llama_folder: str, tmp_path: Path) -> None:
    model, tokenizer = made(llama_folder)
    assert normalised(model, torch.tensor([1.0, 2.0, 3.0])).tolist() == [1.0, 2.0, 3.0]
    model.config.reward_mean, model.config.reward_std = [1.0, 0.0, -2.0], [2.0, 1.0, 4.0]
    assert normalised(model, torch.tensor([[5.0, 3.0, 2.0]])).tolist() == [[2.0, 3.0, 1.0]]
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = load_scorer(str(tmp_path), ModelConfig(path=str(tmp_path)))
    assert normalised(again, torch.tensor([5.0, 3.0, 2.0])).tolist() == [2.0, 3.0, 1.0]
    trees = trees_of(tokenizer)
    want = (plain_scores(again, trees) - torch.tensor([1.0, 0.0, -2.0])) / torch.tensor([2.0, 1.0, 4.0])
    torch.testing.assert_close(score_trees(again, trees, LAYOUT), want, atol=1e-5, rtol=0)


def test_axes_are_named_in_their_order_in_the_saved_configuration(any_folder: str, tmp_path: Path) -> None:
    model, _ = made(any_folder)
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["id2label"] == {"0": "helpful", "1": "honest", "2": "harmless"}
    assert saved["label2id"] == {"helpful": 0, "honest": 1, "harmless": 2}
    assert saved["architectures"][0].endswith("ForSequenceClassification")


def test_the_head_starts_at_one_over_the_root_of_the_width(qwen2_folder: str) -> None:
    """3 · 64 normal numbers of standard deviation 1 / √65, so the estimate is within 4 / √(2 · 192) of it."""
    heads = torch.stack([made(qwen2_folder, seed)[0].score.weight.detach() for seed in range(4)])
    assert abs(heads.std().item() * 65**0.5 - 1) < 4 / (2 * heads.numel()) ** 0.5
    assert abs(heads.mean().item()) < 4 / (65 * heads.numel()) ** 0.5
    assert made(qwen2_folder)[0].score.bias is None


def test_the_head_follows_its_generator(llama_folder: str) -> None:
    one, again, other = made(llama_folder, 1)[0], made(llama_folder, 1)[0], made(llama_folder, 2)[0]
    assert torch.equal(one.score.weight, again.score.weight)
    assert not torch.equal(one.score.weight, other.score.weight)


def test_the_backbone_is_a_copy_of_the_policys(any_folder: str) -> None:
    policy, tokenizer = load_policy(any_folder, ModelConfig(path=any_folder))
    before = copy.deepcopy(policy.base_model.state_dict())
    model = reward_model_from(policy, tokenizer, torch.Generator())
    assert all(torch.equal(value, before[name]) for name, value in model.base_model.state_dict().items())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(value, before[name]) for name, value in policy.base_model.state_dict().items())


def test_a_half_precision_policy_gives_float32_scores(llama_folder: str) -> None:
    policy, tokenizer = load_policy(llama_folder, ModelConfig(path=llama_folder, dtype="bfloat16"))
    model = reward_model_from(policy, tokenizer, torch.Generator())
    assert raw_scores(model, collate(trees_of(tokenizer), bin_tokens=64)).dtype == torch.float32


def test_the_tokenizer_of_the_folder_reads_back(qwen2_folder: str, tmp_path: Path) -> None:
    model, tokenizer = made(qwen2_folder)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == tokenizer.chat_template
