"""Claims about the trainer: the step it takes is the step of plain AdamW on the mean over all units of the batch."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, TrainerCallback

from instruct.supervised import SupervisedRows, supervised
from models.layout import Batch, LayoutConfig, Tree, collate
from models.objective import Mean, Metrics, Objective
from train.batches import Share, ShuffledBatches
from train.callbacks import MetricsLog
from train.evaluation import held_out
from train.sharding import Sharding
from train.tracking import NoTracker
from train.trainer import StageTrainer, TrainerConfig, make_optimizer, rate_multiplier, training_arguments

# Adam's first steps are the gradient's sign where epsilon is small, and the sign of what is almost 0 is noise. Clipping
# would hide a wrong scale.
SMOOTH = {
    "learning_rate": 1e-2,
    "epsilon": 1e-3,
    "max_grad_norm": 1e6,
    "schedule": "constant",
    "save_every": 0,
    "log_every": 1,
}


def trees() -> list[Tree]:
    """Sixteen rows of one to twelve targets, so that micro-batches have very unlike counts."""
    rng = random.Random(0)
    return [Tree.of([0, 5, 6], [[rng.randrange(5, 250) for _ in range(1 + 11 * (i % 2))]]) for i in range(16)]


def rows() -> SupervisedRows:
    return SupervisedRows(trees(), LayoutConfig(bin_tokens=32), 64)


def fresh(folder: str) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder)


def trained(
    model: nn.Module,
    cfg: TrainerConfig,
    folder: Path,
    *,
    n_steps: int = 3,
    objective: Objective = supervised,
    callbacks: tuple[TrainerCallback, ...] = (),
) -> StageTrainer:
    share = Share(cfg.batch_size, cfg.accumulation)
    loop = StageTrainer(
        model,
        ShuffledBatches(rows(), share, steps=n_steps, seed=0),
        objective,
        training_arguments(cfg, Sharding(), folder, n_steps=n_steps, share=share, seed=0),
        make_optimizer(model, cfg, {}),
        rate_multiplier(cfg, n_steps),
        list(callbacks),
    )
    loop.train()
    return loop


def logged(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_weights(one: nn.Module, other: nn.Module, atol: float = 1e-6) -> None:
    for (name, ours), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


# --- the step ---------------------------------------------------------------------------------------------------------


def test_steps_are_those_of_a_plain_loop(llama_folder: str, tmp_path: Path) -> None:
    cfg, ours, plain = TrainerConfig(batch_size=8, **SMOOTH), fresh(llama_folder), fresh(llama_folder)
    trained(ours, cfg, tmp_path)
    optimizer = torch.optim.AdamW(
        plain.parameters(), lr=cfg.learning_rate, betas=(0.9, 0.95), eps=cfg.epsilon, weight_decay=0
    )
    order = ShuffledBatches(rows(), Share(8), steps=3, seed=0)
    for step in range(3):
        losses = []
        for i in order.step_indices(step):
            ids = torch.tensor([trees()[i].prompt + trees()[i].responses[0]])
            losses.append(nn.functional.cross_entropy(plain(ids).logits[0, 2:-1], ids[0, 3:], reduction="none"))
        optimizer.zero_grad()
        torch.cat(losses).mean().backward()
        nn.utils.clip_grad_norm_(plain.parameters(), cfg.max_grad_norm)
        optimizer.step()
    assert_same_weights(ours, plain, atol=1e-5)


@pytest.mark.parametrize("accumulation", [2, 8])
def test_accumulated_micro_batches_are_one_batch(llama_folder: str, tmp_path: Path, accumulation: int) -> None:
    whole, parts = fresh(llama_folder), fresh(llama_folder)
    trained(whole, TrainerConfig(batch_size=8, **SMOOTH), tmp_path)
    trained(parts, TrainerConfig(batch_size=8, accumulation=accumulation, **SMOOTH), tmp_path)
    assert_same_weights(parts, whole)


def test_training_twice_gives_the_same_bits(llama_folder: str, tmp_path: Path) -> None:
    one, other = fresh(llama_folder), fresh(llama_folder)
    for model in (one, other):
        trained(model, TrainerConfig(batch_size=8, save_every=0), tmp_path)
    assert_same_weights(one, other, atol=0)


def test_recomputed_activations_change_no_step(llama_folder: str, tmp_path: Path) -> None:
    plain, frugal = fresh(llama_folder), fresh(llama_folder)
    trained(plain, TrainerConfig(batch_size=8, **SMOOTH), tmp_path)
    trained(frugal, TrainerConfig(batch_size=8, gradient_checkpointing=True, **SMOOTH), tmp_path)
    assert any(getattr(m, "gradient_checkpointing", False) for m in frugal.modules())
    assert_same_weights(frugal, plain)


def test_gradients_over_the_norm_are_scaled_to_it(llama_folder: str, tmp_path: Path) -> None:
    norms: list[float] = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, *_: Any, model: nn.Module, **__: Any) -> None:
            norms.append(float(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])))

    trained(
        fresh(llama_folder),
        TrainerConfig(batch_size=8, max_grad_norm=0.1, save_every=0),
        tmp_path,
        callbacks=(Watch(),),
    )
    assert norms == pytest.approx([0.1] * 3, rel=1e-3)


def test_the_rate_at_each_step_is_that_of_the_schedule(llama_folder: str, tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", NoTracker())
    cfg = TrainerConfig(batch_size=8, learning_rate=0.5, warmup_steps=1, save_every=0, log_every=1)
    trained(fresh(llama_folder), cfg, tmp_path, n_steps=4, callbacks=(log,))
    # One step of warm-up at 1/2, then down in a line from the peak over the other three.
    found = [line["learning_rate"] for line in logged(tmp_path) if "learning_rate" in line]
    assert found == pytest.approx([0.25, 0.5, 0.5 * 2 / 3, 0.5 / 3])


# --- what is logged ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 4])
def test_the_logged_loss_is_the_mean_over_tokens_of_the_whole_step(
    llama_folder: str, tmp_path: Path, accumulation: int
) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", NoTracker())
    trained(
        fresh(llama_folder),
        TrainerConfig(batch_size=16, accumulation=accumulation, **SMOOTH),
        tmp_path,
        n_steps=1,
        callbacks=(log,),
    )
    whole = held_out(fresh(llama_folder), rows(), supervised, batch_size=5)["eval_nll"]
    (line,) = logged(tmp_path)
    assert line["step"] == 1
    assert line["nll"] == pytest.approx(whole, abs=1e-5)
    assert line["loss"] == pytest.approx(whole, abs=1e-3)


def test_metrics_are_means_over_all_steps_since_the_last_line(llama_folder: str, tmp_path: Path) -> None:
    log, counts = MetricsLog(tmp_path / "metrics.jsonl", NoTracker()), iter([(3.0, 1), (5.0, 3), (7.0, 1), (1.0, 1)])

    def objective(model: nn.Module, batch: Batch, units: Tensor) -> tuple[Tensor, Metrics]:
        loss, _ = supervised(model, batch, units)
        return loss, {"seen": Mean(*next(counts)), "never": Mean(0.0, 0)}

    cfg = TrainerConfig(batch_size=8, save_every=0, log_every=2)
    trained(fresh(llama_folder), cfg, tmp_path, n_steps=4, objective=objective, callbacks=(log,))
    assert [line["seen"] for line in logged(tmp_path)] == [2.0, 4.0]  # (3 + 5) / (1 + 3), (7 + 1) / (1 + 1)
    assert not any("never" in line for line in logged(tmp_path))


def test_a_resumed_log_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", NoTracker())
    for step in (1, 2, 3):
        log.write({"loss": 0.1 * step}, step)
    with log.path.open("a") as file:
        file.write('{"step": 4, "lo')
    log.keep_until(2)
    assert [line["step"] for line in logged(tmp_path)] == [1, 2]


# --- held-out rows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_held_out_means_do_not_depend_on_the_batch(llama_folder: str, batch_size: int) -> None:
    model = fresh(llama_folder)
    want = [
        -model(torch.tensor([t.prompt + t.responses[0]])).logits[0, i + 2].log_softmax(-1)[token].item()
        for t in trees()
        for i, token in enumerate(t.responses[0])
    ]
    found = held_out(model, rows(), supervised, batch_size=batch_size)
    assert found == {"eval_nll": pytest.approx(sum(want) / len(want), abs=1e-5)}


def test_no_held_out_rows_make_no_metric_up(llama_folder: str) -> None:
    class Nothing:
        def __len__(self) -> int:
            return 0

        def collate(self, indices: object) -> Batch:
            raise AssertionError("nothing to collate")

    assert held_out(fresh(llama_folder), Nothing(), supervised, batch_size=4) == {}


def test_measuring_gives_the_training_mode_back(llama_folder: str) -> None:
    for mode in (True, False):
        model = fresh(llama_folder).train(mode)
        held_out(model, rows(), supervised, batch_size=4)
        assert model.training is mode


def test_a_batch_without_a_target_has_a_loss_of_exactly_zero_with_a_graph(llama_folder: str) -> None:
    model = fresh(llama_folder)
    batch = collate([Tree([0, 5, 6], [[7, 8]], [[False, False]])], bin_tokens=16)
    loss, metrics = supervised(model, {**batch, "units": torch.zeros(1)}, torch.zeros(1))
    loss.backward()
    assert loss.item() == 0.0 and metrics["nll"].count == 0
    assert all((p.grad == 0).all() for p in model.parameters() if p.grad is not None)
