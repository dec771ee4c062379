"""Claims about learning rates, steps and options: by hand, and out of range refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from transformers import AutoModelForCausalLM

from models.errors import ConfigError
from train.trainer import TrainerConfig, make_optimizer, rate_multiplier


def at(cfg: TrainerConfig, n_steps: int) -> Callable[[int], float]:
    return rate_multiplier(cfg, n_steps)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_warm_up_is_a_line_that_ends_at_the_peak(schedule: str) -> None:
    rate = at(TrainerConfig(warmup_steps=4, schedule=schedule), 10)
    assert [rate(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_schedules_by_hand() -> None:
    # Half and all of the way from the peak (step 2) to the end (step 10).
    for schedule, half, end in (("linear", 0.5, 0.0), ("cosine", 0.5, 0.0), ("constant", 1.0, 1.0)):
        rate = at(TrainerConfig(warmup_steps=2, schedule=schedule), 10)
        assert [rate(2), rate(6), rate(10)] == pytest.approx([1.0, half, end], abs=1e-7)
    assert at(TrainerConfig(schedule="cosine"), 3)(1) == pytest.approx(0.75)  # (1 + cos 60°) / 2


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_final_rate_is_where_a_schedule_ends(schedule: str) -> None:
    rate = at(TrainerConfig(schedule=schedule, final_rate=0.1), 10)
    assert [rate(0), rate(5), rate(10), rate(99)] == pytest.approx([1.0, 0.55, 0.1, 0.1])
    assert sorted(map(rate, range(11)), reverse=True) == [rate(step) for step in range(11)]


def test_every_step_of_a_short_run_has_a_rate_above_zero() -> None:
    assert at(TrainerConfig(), 1)(0) == 1.0
    assert all(at(TrainerConfig(warmup_steps=50), 3)(step) > 0 for step in range(3))


def test_steps_are_whole_batches_times_passes() -> None:
    assert TrainerConfig(batch_size=8, epochs=3).steps(17) == 6
    assert TrainerConfig(batch_size=8, epochs=0.5).steps(64) == 4
    assert TrainerConfig(batch_size=8, epochs=0.01).steps(16) == 1
    assert TrainerConfig(batch_size=8, max_steps=5).steps(1000) == 5


def test_groups_decay_matrices_alone_and_give_modules_rates_of_their_own(llama_folder: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    optimizer = make_optimizer(model, TrainerConfig(learning_rate=1e-3, weight_decay=0.1), {"lm_head": 5e-3})
    names = {p: name for name, p in model.named_parameters()}
    found = {names[p]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert set(found) == set(names.values())
    assert found["lm_head.weight"] == (5e-3, 0.1)
    assert found["model.norm.weight"] == (1e-3, 0.0)
    assert found["model.layers.0.mlp.up_proj.weight"] == (1e-3, 0.1)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("batch_size", 0),
        ("accumulation", 0),
        ("epochs", 0.0),
        ("max_steps", 0),
        ("schedule", "sine"),
        ("final_rate", 1.0),
        ("beta2", 1.0),
        ("weight_decay", -0.1),
        ("warmup_steps", -1),
        ("save_every", -1),
        ("log_every", 0),
        ("max_grad_norm", -1.0),
        ("epsilon", 0.0),
        ("learning_rate", math.inf),
    ],
)
def test_options_out_of_range_are_refused(option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"trainer\.{option}={value}: expected"):
        TrainerConfig(**{option: value})
