"""PPO's loop on a tiny model: first ratio, resumed rollouts, advantages, the checkpoint that is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.chat import ChatFormat, Message
from models.errors import ConfigError, NumericsError
from models.layout import LayoutConfig, Tree
from models.loading import ModelConfig, load_policy
from models.scorer import reward_model_from, score_trees
from rl.actor_critic import ActorCritic, critic_from
from rl.kl import FixedKL
from rl.ppo import PPOBatches, PPOConfig, PPOObjective, check_first_ratio, experience
from rl.rollout import RolloutEngine, freeze
from rl.selection import Selection

PROMPTS = [(Message("user", f"what is the capital of {name} ?"),) for name in ("peru", "spain", "chad", "mali")]


def config(**changes: object) -> PPOConfig:
    return PPOConfig(**{"rollouts": 2, "prompts": 8, "epochs": 2, "max_new_tokens": 6, **changes})


class Parts:
    """Everything that PPO needs, from one folder."""

    def __init__(self, folder: str, cfg: PPOConfig, tmp_path: Path) -> None:
        model_cfg = ModelConfig(path=folder)
        self.policy, self.tokenizer = load_policy(folder, model_cfg)
        reference, _ = load_policy(folder, model_cfg)
        reward_model = reward_model_from(self.policy, self.tokenizer, torch.Generator().manual_seed(1))
        critic = reward_model_from(self.policy, self.tokenizer, torch.Generator().manual_seed(1))
        self.model = ActorCritic(self.policy, *critic_from(critic, cfg.axis_weights))
        self.chat, self.cfg, self.told = ChatFormat(self.tokenizer), cfg, []
        self.engine = RolloutEngine(
            freeze(reference),
            lambda trees: score_trees(freeze(reward_model), trees, LayoutConfig()),
            ends={self.chat.end_ids[-1]},
            max_new_tokens=cfg.max_new_tokens,
            temperature=cfg.temperature,
            bin_tokens=64,
            batch_size=8,
        )
        self.selection = Selection(
            tmp_path, self.policy, self.engine, PROMPTS, self.chat, lambda trees: self.engine.scorer(trees), cfg
        )

    def batches(self) -> PPOBatches:
        return PPOBatches(
            self.model,
            self.engine,
            [self.chat.prompt(prompt) for prompt in PROMPTS],
            self.cfg,
            minibatch=4,
            seed=3,
            controller=FixedKL(coef=0.1),
            ptx=None,
            on_rollout=lambda iteration, metrics: self.told.append((iteration, metrics)),
            after_update=lambda iteration, kl: False,
        )


@pytest.fixture
def parts(any_folder: str, tmp_path: Path) -> Parts:
    return Parts(any_folder, config(), tmp_path)


def test_the_first_minibatch_has_ratio_one_and_clips_nothing(parts: Parts) -> None:
    batch = next(iter(parts.batches()))
    _, metrics = PPOObjective(parts.cfg)(parts.model, batch, batch["units"])
    ratio = metrics["policy/ratio"]
    assert float(ratio.total / ratio.count) == pytest.approx(1.0, abs=1e-3)
    assert float(metrics["policy/clip_fraction"].total) == 0
    assert float(metrics["policy/approx_kl"].total) == pytest.approx(0.0, abs=1e-5)


def test_a_first_ratio_off_one_is_refused() -> None:
    with pytest.raises(NumericsError, match=r"off 1 by 0\.01"):
        check_first_ratio(torch.tensor([0.0, 0.01]))


def test_the_kl_of_the_starting_policy_is_zero(parts: Parts) -> None:
    prompts = [parts.chat.prompt(prompt) for prompt in PROMPTS]
    rollout = parts.engine.collect(parts.model, prompts, torch.Generator().manual_seed(0))
    found = experience(rollout, parts.cfg, kl_coef=0.1)
    torch.testing.assert_close(found.kl, torch.zeros(4), atol=1e-5, rtol=0)


def test_the_critic_of_a_whole_response_is_the_weighted_normalised_reward(llama_folder: str, tmp_path: Path) -> None:
    policy, tokenizer = load_policy(llama_folder, ModelConfig(path=llama_folder))
    reward_model = reward_model_from(policy, tokenizer, torch.Generator().manual_seed(1))
    reward_model.config.reward_mean, reward_model.config.reward_std = [1.0, -2.0, 0.5], [2.0, 0.5, 4.0]
    weights = [1.0, 0.5, 2.0]
    tree = Tree.of([5, 6, 7], [[8, 9]])
    score = score_trees(reward_model, [tree], LayoutConfig()) @ torch.tensor(weights)
    backbone, head = critic_from(reward_model, weights)
    hidden = backbone(torch.tensor([[5, 6, 7, 8, 9]])).last_hidden_state[0, -1]
    torch.testing.assert_close(head(hidden), score)


def test_batches_that_start_at_a_rollout_are_the_tail_of_the_whole(parts: Parts) -> None:
    whole = [batch["input_ids"] for batch in parts.batches()]
    tail = parts.batches()
    tail.start_step = tail.steps_per_rollout
    for expected, found in zip(whole[tail.steps_per_rollout :], tail, strict=True):
        torch.testing.assert_close(found["input_ids"], expected)


def test_every_response_is_seen_once_an_epoch(parts: Parts) -> None:
    batches = list(parts.batches())
    assert len(batches) == len(parts.batches()) == 2 * 2 * 2
    first, second = (torch.cat([batch["target"] for batch in epoch]) for epoch in (batches[:2], batches[2:4]))
    assert first.sort().values.tolist() == second.sort().values.tolist()


def test_a_rollout_is_closed_after_its_last_step_alone(parts: Parts) -> None:
    batches = parts.batches()
    for step, _ in enumerate(batches, start=1):
        batches.after_step(step)
    assert [iteration for iteration, _ in parts.told] == [1, 2]
    assert batches.controller.n_seen == 16


def test_the_kept_policy_is_the_one_that_the_referee_liked_best(llama_folder: str, tmp_path: Path) -> None:
    parts = Parts(llama_folder, config(evaluate_every=1), tmp_path)
    likes = iter([0.0, 2.0, 1.0])
    parts.selection.referee = lambda trees: torch.full((len(trees), 3), next(likes))
    weight = parts.policy.get_input_embeddings().weight
    for iteration in range(3):
        with torch.no_grad():
            weight.fill_(float(iteration))
        parts.selection.look(iteration, 0.0, torch.Generator().manual_seed(0))
    assert parts.selection.restore_best()["iteration"] == 1
    assert weight.unique().tolist() == [1.0]


def test_a_minibatch_that_does_not_divide_the_rollout_is_refused(parts: Parts) -> None:
    parts.cfg.prompts = 6
    with pytest.raises(ConfigError, match=r"multiple of trainer\.batch_size=4"):
        parts.batches()


@pytest.mark.parametrize(("option", "value"), [("top_p", 0.9), ("top_k", 5), ("clip", 0.0), ("rollouts", 0)])
def test_options_that_would_bias_or_break_ppo_are_refused(option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=option):
        config(**{option: value})
