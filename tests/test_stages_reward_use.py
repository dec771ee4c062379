"""A sealed reward model in the hands of others: plain transformers, TRL's online trainers, its own callers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command import run
from datasets import Dataset
from tiny_data import RANKINGS, STEPS, written
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from models.chat import ChatFormat, Message
from models.errors import ConfigError
from models.layout import LayoutConfig, Tree
from models.loading import ModelConfig, load_scorer
from models.scorer import score_trees
from stages.trl_reward import VARIABLE, learned_reward, reward_function

ASKED = [
    ("what is the capital of peru ?", "lima ."),
    ("how do i clean the library ? first get the key , then go to the library .", "i do not know ."),
    ("3 + 4", "please ask me something else . the capital of spain is madrid ."),
]


@pytest.fixture(scope="module", params=["full", "lora"])
def sealed(request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A reward artefact: of full weights, and of an adapter after stages.export."""
    if request.param == "full":
        return str(tiny / "outputs/tiny/reward")
    folder = tmp_path_factory.mktemp("lora")
    data = ("data=kwise", f"data.path={written(folder / 'kwise.jsonl', RANKINGS)}", "adapter=lora")
    place = (f"outputs={folder}", "name=x")
    made = run("reward", *place, f"model.path={tiny / 'outputs/tiny/sft'}", *data, *STEPS).folder
    return str(run("export", *place, f"model.path={made}").folder)


def ours(folder: str) -> tuple[Tensor, list[list[int]]]:
    """Raw scores of ASKED by the project's own scoring, and the token ids that were scored."""
    model, tokenizer = load_scorer(f"{folder}/model", ModelConfig(path=folder))
    chat = ChatFormat(tokenizer)
    pairs = [(chat.prompt((Message("user", asked),)), chat.response(said)) for asked, said in ASKED]
    mean, std = torch.tensor(model.config.reward_mean), torch.tensor(model.config.reward_std)
    scores = score_trees(model, [Tree.of(p, [r]) for p, r in pairs], LayoutConfig())
    return scores * std + mean, [p + r for p, r in pairs]


@pytest.mark.parametrize("side", ["left", "right", "alone"])
def test_plain_transformers_gives_the_same_raw_scores(sealed: str, side: str) -> None:
    want, rows = ours(sealed)
    plain = AutoModelForSequenceClassification.from_pretrained(f"{sealed}/model").eval()
    tokenizer = AutoTokenizer.from_pretrained(f"{sealed}/model")
    with torch.no_grad():
        if side == "alone":
            got = torch.cat([plain(input_ids=torch.tensor([row])).logits for row in rows])
        else:
            got = plain(**tokenizer.pad({"input_ids": rows}, padding_side=side, return_tensors="pt")).logits
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_plain_tokenisation_of_the_whole_conversation_is_what_was_scored(sealed: str) -> None:
    """As its model card says: the chat template with the reply in it, up to the end of its turn."""
    _, rows = ours(sealed)
    tokenizer = AutoTokenizer.from_pretrained(f"{sealed}/model")
    for (asked, said), row in zip(ASKED, rows, strict=True):
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        assert tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"] == row


def test_a_reward_function_gives_the_weighted_mean_of_normalised_scores(sealed: str) -> None:
    model, _ = load_scorer(f"{sealed}/model", ModelConfig(path=sealed))
    raw, _ = ours(sealed)
    normal = (raw - torch.tensor(model.config.reward_mean)) / torch.tensor(model.config.reward_std)
    want = (2 * normal[:, 0] + normal[:, 1]) / 3
    score = reward_function(sealed, weights={"helpful": 2.0, "harmless": 0.0})
    prompts = [[{"role": "user", "content": asked}] for asked, _ in ASKED]
    completions = [[{"role": "assistant", "content": said}] for _, said in ASKED]
    as_turns = score(prompts=prompts, completions=completions, completion_ids=[[0]] * 3, unknown=None)
    assert as_turns == pytest.approx(want.tolist(), abs=1e-4)
    assert score([asked for asked, _ in ASKED], [said for _, said in ASKED]) == pytest.approx(as_turns, abs=1e-6)


def online(kind: str, tiny: Path, folder: Path, rewards: list[Callable[..., list[float]] | str]) -> list[dict]:
    """One step of a trainer of TRL on the tiny policy, and what it logged."""
    config, trainer = {"grpo": (GRPOConfig, GRPOTrainer), "rloo": (RLOOConfig, RLOOTrainer)}[kind]
    arguments = config(
        output_dir=str(folder),
        max_steps=1,
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=6,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
    )
    rows = [{"prompt": [{"role": "user", "content": asked}]} for asked, _ in ASKED]
    sft = str(tiny / "outputs/tiny/sft/model")
    made = trainer(model=sft, reward_funcs=rewards, args=arguments, train_dataset=Dataset.from_list(rows))
    made.train()
    return made.state.log_history


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_trl_trains_on_it(kind: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The helper, and the name that TRL's command line takes, in one step of a real trainer."""
    reward = str(tiny / "outputs/tiny/reward")
    monkeypatch.setenv(VARIABLE, reward)
    logged = online(kind, tiny, tmp_path, [reward_function(reward, name="helper"), learned_reward])[0]
    assert logged["rewards/helper/mean"] == pytest.approx(logged["rewards/learned_reward/mean"], abs=1e-6)
    assert torch.isfinite(torch.tensor([logged["loss"], logged["rewards/helper/mean"]])).all()


def test_trl_takes_the_folder_itself_for_one_axis_alone(tiny: Path, tmp_path: Path) -> None:
    """TRL opens a folder with num_labels=1; three axes are refused by transformers, not read wrongly."""
    sft, scalar = tiny / "outputs/tiny/sft/model", tmp_path / "scalar"
    AutoModelForSequenceClassification.from_pretrained(sft, num_labels=1).save_pretrained(scalar)
    AutoTokenizer.from_pretrained(sft).save_pretrained(scalar)
    assert "rewards/scalar/mean" in online("grpo", tiny, tmp_path, [str(scalar)])[0]
    with pytest.raises((RuntimeError, ValueError), match=r"size|mismatch"):
        online("grpo", tiny, tmp_path, [str(tiny / "outputs/tiny/reward/model")])


def test_a_reward_function_needs_models_and_an_environment_that_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="names no reward model"):
        reward_function()
    monkeypatch.delenv(VARIABLE, raising=False)
    from stages.trl_reward import _of_environment

    _of_environment.cache_clear()
    with pytest.raises(ConfigError, match=VARIABLE):
        learned_reward(["a"], ["b"])
