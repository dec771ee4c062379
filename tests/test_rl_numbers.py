"""Steps of RL without numbers: skipped and counted once, and the end of the run where it does not pass."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command import stage
from safetensors.torch import load_file, save_file
from test_rl_loop import Parts, config
from test_train_numbers import Weights
from tiny_data import ROLLOUTS
from torch import Tensor, nn

from models.errors import NumericsError
from models.layout import Batch
from models.objective import Metrics
from rl.loop import check_numbers
from rl.objective import PolicyObjective
from train.batches import Share
from train.callbacks import AfterStep, NumbersGuard
from train.sharding import Sharding
from train.trainer import StageTrainer, TrainerConfig, make_optimizer, rate_multiplier, training_arguments


class Spoilt(PolicyObjective):
    """The loss of RL, which is no number at some steps."""

    def __init__(self, cfg: Any, at: set[int]) -> None:
        super().__init__(cfg)
        self.at = at
        self.calls: Iterator[int] = iter(range(1000))

    def __call__(self, model: nn.Module, batch: Batch, units: Tensor) -> tuple[Tensor, Metrics]:
        loss, metrics = super().__call__(model, batch, units)
        return (loss * math.nan if next(self.calls) in self.at else loss), metrics


def trained(parts: Parts, tmp_path: Path, at: set[int]) -> tuple[StageTrainer, NumbersGuard, Weights]:
    """Two rollouts of four steps each."""
    cfg, guard, weights = TrainerConfig(batch_size=8, learning_rate=1e-2), NumbersGuard(), Weights()
    parts.objective = Spoilt(parts.cfg, at)
    batches = parts.batches()
    loop = StageTrainer(
        parts.model,
        batches,
        parts.objective,
        training_arguments(cfg, Sharding(), tmp_path, n_steps=len(batches), share=Share(8), seed=0),
        make_optimizer(parts.model, cfg, {}),
        rate_multiplier(cfg, len(batches)),
        [AfterStep(batches.after_step), guard, weights],
    )
    loop.train()
    return loop, guard, weights


def test_a_step_of_rl_without_numbers_moves_no_weight_and_no_moment(llama_folder: str, tmp_path: Path) -> None:
    parts = Parts(llama_folder, config(), tmp_path)
    loop, guard, weights = trained(parts, tmp_path, {2})
    assert guard.skipped == 1 and len(weights.after) == 8
    assert torch.equal(weights.after[2], weights.after[1]) and not torch.equal(weights.after[3], weights.after[2])
    assert all(after.isfinite().all() for after in weights.after)
    states = loop.optimizer.state.values()
    assert {int(state["step"]) for state in states} == {7}
    assert all(state[moment].isfinite().all() for state in states for moment in ("exp_avg", "exp_avg_sq"))
    assert [iteration for iteration, _ in parts.told] == [1, 2]


def test_log_probabilities_without_numbers_name_the_prompt_and_the_weights(llama_folder: str, tmp_path: Path) -> None:
    parts = Parts(llama_folder, config(), tmp_path)
    found = parts.experience(parts.rollout())
    found.kl[3] = math.nan
    with torch.no_grad():
        parts.policy.lm_head.weight[0, 0] = math.inf
    with pytest.raises(NumericsError, match=r"rollout 5: .* 1 of 8 .* prompt 1; the weights policy.lm_head.weight"):
        check_numbers(found, 5, parts.model)


# --- from outside -----------------------------------------------------------------------------------------------------


@pytest.fixture
def options(tiny: Path) -> tuple[str, ...]:
    made = tiny / "outputs/tiny"
    data = ("data=prompts", f"data.path={tiny / 'prompts.jsonl'}", f"reward.path={made / 'reward'}", *ROLLOUTS)
    return (*data, f"model.path={made / 'sft'}", "rl.rollouts=4", "trainer.save_every=2")


def test_gradients_without_numbers_end_with_5_their_batch_and_the_checkpoints_kept(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    ended = stage("ppo", *options, "rl.value_coef=1e39", cwd=tmp_path)
    assert ended.code == 5, ended.stderr
    folder = tmp_path / "outputs/default/ppo"
    assert "step 4: the gradient was not a number 5 times in a row; lower trainer.learning_rate" in ended.error
    assert str(Path("ppo") / "failed_batch-0.pt") in ended.stderr
    [batch] = torch.load(folder / "failed_batch-0.pt", weights_only=True)
    assert {"target", "advantages", "old_logprobs"} <= batch.keys()
    assert (folder / "checkpoints/checkpoint-4/complete.json").is_file()


def test_weights_that_stop_being_numbers_are_in_no_checkpoint(options: tuple[str, ...], tmp_path: Path) -> None:
    ended = stage("ppo", *options, "trainer.learning_rate=1e39", "trainer.save_every=1", cwd=tmp_path)
    assert ended.code == 5, ended.stderr
    assert "step 1; the weights policy." in ended.error
    assert not list((tmp_path / "outputs/default/ppo/checkpoints").glob("*"))


def test_a_policy_whose_weights_are_no_numbers_ends_with_5_and_their_name(
    options: tuple[str, ...], llama_folder: str, tiny: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in (tiny / "outputs/tiny/sft/model").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = math.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    for held_out, said in (("0.25", "held-out prompt 0"), ("0", "rollout 1: ")):
        ended = stage("ppo", *options, f"model.path={broken}", f"data.eval_fraction={held_out}", cwd=tmp_path)
        assert ended.code == 5, ended.stderr
        assert "model.norm.weight are not numbers" in ended.error and said in ended.error


def test_a_reward_without_a_number_ends_with_5_and_keeps_the_answers(options: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text("def f(prompts, **_): return [float('nan')] * len(prompts)")
    ended = stage("ppo", *options, "+reward.also.mine.function=rewards.f", cwd=tmp_path)
    assert ended.code == 5 and "mine is nan for a response to prompt" in ended.error
    answers = torch.load(tmp_path / "outputs/default/ppo/failed_batch-0.pt", weights_only=True)
    assert [(number, len(samples)) for number, _, samples in answers] == [(0, 1), (1, 1)]  # the held-out prompts


def test_a_constant_reward_is_told_and_teaches_exactly_nothing(options: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text("def f(prompts, **_): return [0.3] * len(prompts)")
    flat = ("reward.path=null", "+reward.also.mine.function=rewards.f", "rl.score.missing_end_penalty=0")
    group = ("rl.algorithm=grpo", "rl.samples=2", "rl.kl.coef=0", "rl.kl.adaptive=false", "trainer.weight_decay=0")
    ended = stage("ppo", *options, *flat, *group, cwd=tmp_path)
    assert ended.code == 0, ended.stderr
    assert ended.stderr.count("constant reward: every response of the rollout scored the same") == 1
    start = next(option for option in options if option.startswith("model.path=")).removeprefix("model.path=")
    before, after = (
        load_file(Path(at) / "model/model.safetensors") for at in (start, tmp_path / "outputs/default/ppo")
    )
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_without_held_out_prompts_nothing_is_measured_and_it_is_said(options: tuple[str, ...], tmp_path: Path) -> None:
    ended = stage("ppo", *options, "data.eval_fraction=0", cwd=tmp_path)
    assert ended.code == 0, ended.stderr
    assert "kept the last policy: no prompts are held out" in ended.stderr
    folder = tmp_path / "outputs/default/ppo"
    metrics = json.loads((folder / "manifest.json").read_text())["metrics"]
    assert metrics["kept"] is None and metrics["looks"] == []
    assert "held_out" not in (folder / "metrics.jsonl").read_text() and not (folder / "looks").exists()
