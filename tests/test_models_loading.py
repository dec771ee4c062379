"""Claims about loading: what cannot be right is refused by name before it can do harm; what loads is as it was."""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from models.errors import ArtifactError, ConfigError
from models.loading import (
    ModelConfig,
    load_policy,
    load_scorer,
    load_tokenizer,
    max_positions,
    same_tokenizer,
    template_digest,
)
from models.scorer import reward_model_from

Load = Callable[[str, ModelConfig], tuple[PreTrainedModel, PreTrainedTokenizerBase]]
BOTH = pytest.mark.parametrize("load", [load_policy, load_scorer])


def policy(folder: str | Path, **options: object) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return load_policy(str(folder), ModelConfig(path=str(folder), **options))


def copied(folder: str, to: Path) -> Path:
    shutil.copytree(folder, to, dirs_exist_ok=True)
    return to


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture(scope="module")
def reward_folder(llama_folder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("reward")
    model, tokenizer = policy(llama_folder)
    reward_model_from(model, tokenizer, torch.Generator()).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


# --- the wrong kind ---------------------------------------------------------------------------------------------------


def test_a_reward_model_is_no_policy(reward_folder: str) -> None:
    with pytest.raises(ArtifactError, match="expected a language model, found a reward model"):
        policy(reward_folder)


def test_a_policy_is_no_reward_model(any_folder: str) -> None:
    with pytest.raises(ArtifactError, match="expected a reward model, found a language model"):
        load_scorer(any_folder, ModelConfig(path=any_folder))


def test_a_reward_model_loads_as_one(reward_folder: str) -> None:
    model, tokenizer = load_scorer(reward_folder, ModelConfig(path=reward_folder))
    assert model.config.num_labels == 3 and tokenizer.chat_template is not None


# --- sizes and special tokens -----------------------------------------------------------------------------------------


def test_a_tokenizer_larger_than_the_embeddings_is_refused_with_both_sizes(llama_folder: str, tmp_path: Path) -> None:
    folder = copied(llama_folder, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = len(tokenizer)
    tokenizer.add_tokens(["one", "two"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ArtifactError, match=f"{rows + 2} tokens, the embeddings {rows} rows"):
        policy(folder)


def test_a_scorers_tokenizer_is_checked_too(reward_folder: str, tmp_path: Path) -> None:
    folder = copied(reward_folder, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["one"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ArtifactError, match=r"tokenizer has \d+ tokens, the embeddings \d+ rows"):
        load_scorer(str(folder), ModelConfig(path=str(folder)))


def test_a_tokenizer_without_an_end_of_text_is_refused(llama_folder: str, tmp_path: Path) -> None:
    folder = copied(llama_folder, tmp_path)
    edit_json(folder / "tokenizer_config.json", eos_token=None)
    with pytest.raises(ArtifactError, match="no end-of-text token; set eos_token"):
        policy(folder)


def test_a_folder_without_a_tokenizer_is_refused(llama_folder: str, tmp_path: Path) -> None:
    folder = copied(llama_folder, tmp_path)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ArtifactError, match="tokenizer"):
        policy(folder)


# --- what is not there ------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "a/b/c/nowhere"])
def test_a_missing_folder_is_named(tmp_path: Path, load: Load, name: str) -> None:
    path = f"{tmp_path}/{name}" if name == "nowhere" else name
    with pytest.raises(ArtifactError, match=f"{path}: no such model folder; check model.path"):
        load(path, ModelConfig(path=path))


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="no such model folder"):
        policy(tmp_path / "file")


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no config\.json"):
        policy(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "no-such-model"}', "{}"])
def test_a_broken_configuration_is_named(llama_folder: str, tmp_path: Path, content: str) -> None:
    folder = copied(llama_folder, tmp_path)
    (folder / "config.json").write_text(content)
    with pytest.raises(ArtifactError, match=f"{folder}.*config.json"):
        policy(folder)


@pytest.mark.parametrize("fault", ["cut", "gone"])
def test_damaged_weights_are_named(llama_folder: str, tmp_path: Path, fault: str) -> None:
    folder = copied(llama_folder, tmp_path)
    weights = folder / "model.safetensors"
    if fault == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        weights.unlink()
    with pytest.raises(ArtifactError, match=str(folder)):
        policy(folder)


@pytest.mark.parametrize("name", ["nobody/nothing", "nothing", "not a name!"])
def test_a_hub_name_without_network_fails_at_once_with_the_local_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # where nobody answers
    started = time.monotonic()
    with pytest.raises(ArtifactError, match=f"{name}: no such local folder, and the hub did not answer .*model.path"):
        policy(name)
    assert time.monotonic() - started < 5


# --- what loads -------------------------------------------------------------------------------------------------------


def test_the_weights_are_those_of_the_folder(any_folder: str) -> None:
    model, _ = policy(any_folder)
    want = AutoModelForCausalLM.from_pretrained(any_folder).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value[: len(want[name])], want[name]), name


def test_dropout_is_off_in_training_mode(gpt2_folder: str) -> None:
    model, _ = policy(gpt2_folder)
    model.train()
    assert all(m.p == 0 for m in model.modules() if isinstance(m, torch.nn.Dropout))
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(model(ids).logits, model(ids).logits)
    plain = AutoModelForCausalLM.from_pretrained(gpt2_folder).train()
    assert not torch.equal(plain(ids).logits, plain(ids).logits)  # the folder itself has dropout


@pytest.mark.parametrize("shape", ["gpt2", "qwen2"])
def test_tied_weights_stay_tied(shape: str, request: pytest.FixtureRequest) -> None:
    model, tokenizer = policy(request.getfixturevalue(f"{shape}_folder"))
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model.get_input_embeddings().weight.shape[0] >= len(tokenizer)


def test_untied_weights_both_grow(llama_folder: str) -> None:
    model, tokenizer = policy(llama_folder)
    for embeddings in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert embeddings.weight.shape[0] == len(tokenizer)
    assert model.config.vocab_size == len(tokenizer)


@pytest.mark.parametrize("shape", ["llama", "gpt2"])
def test_new_rows_start_near_the_mean_of_the_old_and_apart(shape: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(f"{shape}_folder")
    model, _ = policy(folder)
    old = AutoModelForCausalLM.from_pretrained(folder)
    for ours, theirs in (
        (model.get_input_embeddings(), old.get_input_embeddings()),
        (model.get_output_embeddings(), old.get_output_embeddings()),
    ):
        before, new = theirs.weight, ours.weight[theirs.weight.shape[0] :]
        assert len(new) == 4
        assert ((new - before.mean(0)).abs() < 0.5 * before.std(0)).all()  # noise of a tenth: 5 standard deviations
        assert torch.pdist(new).min() > 0.05  # the noise makes about 0.1 · 0.1 · √(2 · 64)


def test_new_rows_are_the_same_in_every_process(llama_folder: str) -> None:
    torch.manual_seed(1)
    one, _ = policy(llama_folder)
    torch.manual_seed(2)
    other, _ = policy(llama_folder)
    assert torch.equal(one.get_input_embeddings().weight, other.get_input_embeddings().weight)
    assert torch.equal(one.lm_head.weight, other.lm_head.weight)


def test_role_tokens_in_spare_rows_start_at_the_mean_too(llama_folder: str, tmp_path: Path) -> None:
    """Embeddings padded beyond the tokenizer have rows for the role tokens, which nobody trained."""
    old = AutoModelForCausalLM.from_pretrained(llama_folder)
    known = old.get_input_embeddings().weight.shape[0]
    old.resize_token_embeddings(known + 12, mean_resizing=False)
    with torch.no_grad():
        old.get_input_embeddings().weight[known:] = 100.0
    old.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(llama_folder).save_pretrained(tmp_path)
    model, tokenizer = policy(tmp_path)
    weight = model.get_input_embeddings().weight
    assert weight.shape[0] == known + 12 and len(tokenizer) == known + 4
    assert (weight[known : known + 4].abs() < 2).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_have_the_stated_precision(llama_folder: str, dtype: str) -> None:
    model, _ = policy(llama_folder, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.dtype=int8"):
        ModelConfig(path="x", dtype="int8")


def test_positions_are_those_of_the_model(any_folder: str) -> None:
    assert max_positions(policy(any_folder)[0]) == 256


# --- templates and tokenizers -----------------------------------------------------------------------------------------


def test_a_template_file_is_used_where_the_folder_has_none(llama_folder: str, tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text("{% for m in messages %}{{ m['content'] + '</s>' }}{% endfor %}")
    _, tokenizer = policy(llama_folder, chat_template=str(file))
    assert tokenizer.chat_template == file.read_text()


def test_another_template_than_the_folders_is_refused_with_both_digests(qwen2_folder: str, tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text("{{ messages }}")
    own = AutoTokenizer.from_pretrained(qwen2_folder).chat_template
    with pytest.raises(ArtifactError, match=f"{template_digest(own)}.*{template_digest(file.read_text())}"):
        policy(qwen2_folder, chat_template=str(file))
    file.write_text(own)
    assert load_tokenizer(qwen2_folder, ModelConfig(path=qwen2_folder, chat_template=str(file))).chat_template == own


def test_a_missing_template_file_is_named(llama_folder: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.chat_template=.*gone\.jinja"):
        policy(llama_folder, chat_template=str(tmp_path / "gone.jinja"))


def test_tokenizers_agree_with_themselves_and_a_changed_one_is_refused(qwen2_folder: str) -> None:
    one, other = (AutoTokenizer.from_pretrained(qwen2_folder) for _ in range(2))
    same_tokenizer(one, other, "here")
    other.chat_template += " "
    with pytest.raises(ArtifactError, match="here: the reward model's tokenizer and template"):
        same_tokenizer(one, other, "here")
    grown = copy.deepcopy(one)
    grown.add_tokens(["one"])
    with pytest.raises(ArtifactError):
        same_tokenizer(one, grown, "here")


def test_using_a_tokenizer_does_not_change_its_digest(qwen2_folder: str) -> None:
    """Padding and truncation are remembered by the tokenizer's backend, and decide no id."""
    one, other = (AutoTokenizer.from_pretrained(qwen2_folder) for _ in range(2))
    other(["a", "a b c"], padding=True, truncation=True, max_length=2)
    same_tokenizer(one, other, "here")
