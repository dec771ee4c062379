"""Claims about steps that fail and steps of two processes: all skip together, and nothing is left of the failure."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_trainer import SMOOTH, assert_same_weights, fresh, rows, trained
from torch import Tensor, nn
from transformers import TrainerCallback

from instruct.supervised import supervised
from models.errors import NumericsError
from models.layout import Batch
from models.objective import Metrics, Objective
from train.batches import Share, ShuffledBatches
from train.callbacks import NumbersGuard
from train.sharding import Sharding
from train.trainer import StageTrainer, TrainerConfig, make_optimizer, rate_multiplier, training_arguments


def spoilt(at: set[int], value: float) -> Objective:
    """The supervised loss, times `value` on the given micro-batches."""
    calls: Iterator[int] = iter(range(1000))

    def objective(model: nn.Module, batch: Batch, units: Tensor) -> tuple[Tensor, Metrics]:
        loss, metrics = supervised(model, batch, units)
        return (loss * value if next(calls) in at else loss), metrics

    return objective


class Weights(TrainerCallback):
    """The weights after each step."""

    def __init__(self) -> None:
        self.after: list[Tensor] = []

    def on_step_end(self, *_: Any, model: nn.Module, **__: Any) -> None:
        self.after.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_step_without_numbers_changes_no_weight_and_is_counted(
    llama_folder: str, tmp_path: Path, value: float, accumulation: int
) -> None:
    guard, weights = NumbersGuard(), Weights()
    cfg = TrainerConfig(batch_size=8, accumulation=accumulation, weight_decay=0.1, **SMOOTH)
    trained(
        fresh(llama_folder),
        cfg,
        tmp_path,
        n_steps=4,
        objective=spoilt({accumulation}, value),  # a micro-batch of the second step
        callbacks=(guard, weights),
    )
    first, second, third, _ = weights.after
    assert torch.equal(second, first) and not torch.equal(third, second)
    assert all(after.isfinite().all() for after in weights.after)
    assert guard.skipped == 1


def test_a_skipped_step_leaves_no_trace_in_the_moments(llama_folder: str, tmp_path: Path) -> None:
    """Steps 0 and 2 alone, against a run that steps 0 and 2 with a spoilt one between them."""
    cfg = TrainerConfig(batch_size=8, **SMOOTH)
    skipping, plain = fresh(llama_folder), fresh(llama_folder)
    trained(skipping, cfg, tmp_path, objective=spoilt({1}, math.nan), callbacks=(NumbersGuard(),))
    optimizer = make_optimizer(plain, cfg, {})
    order = ShuffledBatches(rows(), Share(8), steps=3, seed=0)
    for step, batch in enumerate(order):
        if step != 1:
            supervised(plain, batch, batch["units"])[0].backward()
            nn.utils.clip_grad_norm_(plain.parameters(), cfg.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
    assert_same_weights(skipping, plain)


@pytest.mark.parametrize(("patience", "at", "ends"), [(2, {1, 2}, True), (3, {0, 1, 3}, False), (1, {3}, True)])
def test_so_many_in_a_row_end_the_stage(
    llama_folder: str, tmp_path: Path, patience: int, at: set[int], ends: bool
) -> None:
    def train() -> None:
        trained(
            fresh(llama_folder),
            TrainerConfig(batch_size=8, **SMOOTH),
            tmp_path,
            n_steps=5,
            objective=spoilt(at, math.nan),
            callbacks=(NumbersGuard(patience),),
        )

    if not ends:
        train()
        return
    with pytest.raises(NumericsError, match=f"step {max(at)}: .* {patience} times in a row"):
        train()


# --- two processes ----------------------------------------------------------------------------------------------------


def work(llama_folder: str, out: str) -> None:
    """What each of two processes does: plain steps, then steps that process 1 alone spoils once."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    cfg, share = TrainerConfig(batch_size=8, accumulation=2, **SMOOTH), Share(8, 2, rank, world)
    for name, objective in (("plain", supervised), ("spoilt", spoilt({2} if rank else set(), math.nan))):
        model, guard = fresh(llama_folder), NumbersGuard()
        loop = StageTrainer(
            model,
            ShuffledBatches(rows(), share, steps=3, seed=0),
            objective,
            training_arguments(cfg, Sharding(), Path(out), n_steps=3, share=share, seed=0),
            make_optimizer(model, cfg, {}),
            rate_multiplier(cfg, 3),
            [guard],
        )
        loop.train()
        assert loop.accelerator.num_processes == world
        torch.save({"weights": model.state_dict(), "skipped": guard.skipped}, f"{out}/{name}-{rank}.pt")


def test_two_processes_take_the_steps_of_one_and_skip_together(llama_folder: str, tmp_path: Path) -> None:
    code = f"import test_train_numbers as here; here.work({llama_folder!r}, {str(tmp_path)!r})"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(__file__).parent.parent
    shared = {
        **os.environ,
        "PYTHONPATH": f"{root}:{root / 'tests'}",
        "MASTER_ADDR": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**shared, "MASTER_PORT": str(port), "RANK": str(r), "LOCAL_RANK": str(r), "WORLD_SIZE": "2"},
        )
        for r in range(2)
    ]
    try:
        assert [process.wait(timeout=120) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    found = {name: torch.load(tmp_path / f"{name}.pt") for name in ("plain-0", "plain-1", "spoilt-0", "spoilt-1")}
    alone, skipping = fresh(llama_folder), fresh(llama_folder)
    trained(alone, TrainerConfig(batch_size=8, **SMOOTH), tmp_path)
    trained(
        skipping,
        TrainerConfig(batch_size=8, **SMOOTH),
        tmp_path,
        objective=spoilt({1}, math.nan),
        callbacks=(NumbersGuard(),),
    )
    for rank in (0, 1):
        for name, model in (("plain", alone), ("spoilt", skipping)):
            again = fresh(llama_folder)
            again.load_state_dict(found[f"{name}-{rank}"]["weights"])
            assert_same_weights(again, model, atol=2e-6)
        assert (found[f"plain-{rank}"]["skipped"], found[f"spoilt-{rank}"]["skipped"]) == (0, 1)
