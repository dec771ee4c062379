"""Claims about the benchmarks of RL: both sides learn the same from the same responses, and ratios compare like."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench import group, ppo, rollout_material
from bench.clock import Clock
from bench.environment import LAST_WITH_PPO, NotInstalled, trl_release
from bench.harness import ROOT, Contestant, Outcome, parts_table
from bench.one_label import one_label
from models.layout import LayoutConfig, Tree
from models.loading import ModelConfig, load_scorer
from models.scorer import score_trees

PARTS = {"rollout": 1.0, "update": 2.0}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material")
    rollout_material.main(folder, rollout_material.MADE_UP, 16, "tiny")
    return folder


def test_ppo_learns_what_trl_learns_from_the_same_responses(material: Path) -> None:
    try:
        environment = trl_release(LAST_WITH_PPO, ROOT / "outputs/bench")
    except NotInstalled as missing:
        pytest.skip(str(missing))
    found = ppo.agreement(environment, quick=True, material=material)
    assert found.keys() == {"score", "kl", "policy loss", "value loss"} and max(found.values()) < 1e-4


def test_grpo_learns_what_trl_learns_from_the_same_responses(material: Path) -> None:
    found = group.agreement("grpo", quick=True, material=material)
    assert found["loss"] < 1e-4 and found["grad_norm"] < 1e-3


def test_one_label_scores_as_the_sum_of_the_axes_less_a_constant(material: Path) -> None:
    reward_model, _ = load_scorer(str(material / "reward"), ModelConfig())
    reward_model.config.reward_mean, reward_model.config.reward_std = [0.5, -1.0, 0.0], [2.0, 0.5, 1.0]
    trees = [Tree.of([5, 6, 7], [[8, 9]]), Tree.of([20, 21], [[40], [41, 42, 43]])]
    weights = (1.0, 0.0, 3.0)
    axes = score_trees(reward_model, trees, LayoutConfig()) @ torch.tensor(weights)
    [folded] = score_trees(one_label(reward_model, weights), trees, LayoutConfig()).T
    assert torch.allclose(folded - axes, torch.full_like(axes, 0.25), atol=1e-5)  # 1.0 · 0.5 / 2.0


def test_one_backbone_is_compared_with_all_and_the_same_algorithm_with_what_trains_every_weight() -> None:
    def ran(name: str, role: str, seconds: float) -> Contestant:
        made = Contestant(name, "fp32", role, "", lambda _: [], lambda _: Outcome(0.0, [], []))
        made.runs.append((Outcome(seconds, [], [], PARTS), 100.0 * seconds))
        return made

    sides = [ran("ours", "ours", 2.0), ran(next(iter(ppo.SHARED)), "without", 1.0), ran("TRL, default", "default", 8.0)]
    sides += [ran("TRL, halves", "setting", 6.0), ran(ppo.WITH_ADAPTER, "setting", 3.0)]
    one = {"samples": 4, "targets": 8, "body": 1e9, "output": 1e9}
    found = ppo.judged(1, sides, {"forward": {"1": one}}, {"fp32": 1.0})
    whole, shared = (found[name]["by_precision"]["fp32"] for name in ("the same algorithm", "one backbone"))
    assert (whole["ratio_to_default"], whole["ratio_to_best"], whole["memory_to_default"]) == (4.0, 3.0, 0.25)
    assert (shared["ratio_to_default"], shared["ratio_to_best"], shared["best"]) == (8.0, 3.0, ppo.WITH_ADAPTER)
    assert "| ours, fp32 | 1.00 | 2.00 | 2.00 |" in parts_table(found["the same algorithm"]["rows"])


def test_a_clock_counts_what_is_called_inside_a_part_once() -> None:
    class Trainer:
        def generate(self, n: int) -> int:
            return self.score(n) + 1

        def score(self, n: int) -> int:
            return 2 * n

    clock, trainer = Clock(), Trainer()
    clock.watch(trainer, {"generate": lambda *_: "rollout", "score": lambda n: "scoring" if n > 1 else None})
    assert trainer.generate(3) == 7 and clock.seconds.keys() == {"rollout"}
    trainer.score(1)
    assert "scoring" not in clock.seconds
    parts = clock.parts(total=10.0)
    assert sum(parts.values()) == pytest.approx(10.0) and parts["update"] > 9.0
