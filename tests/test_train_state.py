"""Claims about what a checkpoint holds: enough to go on with the same bits, by names, in files that memory can hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from test_train_trainer import SMOOTH, assert_same_weights, fresh, rows
from torch import nn

from instruct.supervised import supervised
from models.adapters import AdapterConfig, adapt
from models.errors import ArtifactError
from train import state
from train.batches import Share, ShuffledBatches
from train.sharding import Sharding
from train.trainer import StageTrainer, TrainerConfig, make_optimizer, rate_multiplier, training_arguments

N_STEPS, SAVED = 4, 2


def trained(model: nn.Module, folder: Path, start: Path | None = None) -> StageTrainer:
    """With warm-up, decay and a schedule, saved after two steps of four."""
    cfg = TrainerConfig(batch_size=8, weight_decay=0.1, warmup_steps=1, **SMOOTH | {"schedule": "linear"})
    cfg.save_every = SAVED
    share = Share(cfg.batch_size)
    batches = ShuffledBatches(rows(), share, steps=N_STEPS, seed=0)
    batches.start_step = SAVED if start else 0
    loop = StageTrainer(
        model,
        batches,
        supervised,
        training_arguments(cfg, Sharding(), folder, n_steps=N_STEPS, share=share, seed=0),
        make_optimizer(model, cfg, {}),
        rate_multiplier(cfg, N_STEPS),
        [],
    )
    loop.start = start
    loop.train()
    return loop


def test_a_training_goes_on_with_the_same_bits(llama_folder: str, tmp_path: Path) -> None:
    whole, resumed = fresh(llama_folder), fresh(llama_folder)
    trained(whole, tmp_path)
    checkpoint = tmp_path / f"checkpoint-{SAVED}"
    state.load_weights(checkpoint, resumed)
    loop = trained(resumed, tmp_path / "after", checkpoint)
    assert_same_weights(resumed, whole, atol=0)
    assert loop.state.global_step == N_STEPS
    assert loop.lr_scheduler.get_last_lr() == [0.0, 0.0]  # of weights that decay and of those that do not


def test_a_checkpoint_holds_names_and_whole_tensors_and_no_code(llama_folder: str, tmp_path: Path) -> None:
    model = fresh(llama_folder)
    trained(model, tmp_path)
    files = {path.name for path in (tmp_path / f"checkpoint-{SAVED}").iterdir()}
    assert files == {"state-00000.safetensors", "trainer_state.json"}
    with safe_open(tmp_path / f"checkpoint-{SAVED}/state-00000.safetensors", "pt") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
    for name, weight in model.named_parameters():
        assert {shapes.pop(f"{part}:{name}") for part in ("weight", "exp_avg", "exp_avg_sq")} == {tuple(weight.shape)}
        assert shapes.pop(f"step:{name}") == ()
    assert shapes == {}
    assert json.loads((tmp_path / f"checkpoint-{SAVED}/trainer_state.json").read_text())["global_step"] == SAVED


def test_of_an_adapter_what_is_frozen_is_not_held(llama_folder: str, tmp_path: Path) -> None:
    model = adapt(fresh(llama_folder), AdapterConfig("lora", rank=2), base=llama_folder)
    state.save_state(tmp_path, model)
    with safe_open(tmp_path / "state-00000.safetensors", "pt") as file:
        assert all("lora_" in key for key in file.keys())


def test_files_are_no_larger_than_what_is_held_at_once(
    llama_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "FILE_BYTES", 50_000)
    model, again = fresh(llama_folder), fresh(llama_folder)
    nn.init.normal_(model.lm_head.weight)
    state.save_state(tmp_path, model)
    assert len(list(tmp_path.iterdir())) > 4
    state.load_weights(tmp_path, again)
    assert_same_weights(again, model, atol=0)


def test_a_checkpoint_of_another_model_is_refused_by_the_weight_it_lacks(llama_folder: str, tmp_path: Path) -> None:
    small = nn.ModuleDict({"model": fresh(llama_folder).model})
    state.save_state(tmp_path, small)
    with pytest.raises(ArtifactError, match=r"lm_head\.weight"):
        state.load_weights(tmp_path, fresh(llama_folder))


def test_weights_that_are_loaded_stay_what_they_are(llama_folder: str, tmp_path: Path) -> None:
    model = fresh(llama_folder).to(torch.bfloat16)
    state.save_state(tmp_path, model)
    again = fresh(llama_folder)
    state.load_weights(tmp_path, again)
    assert all(weight.dtype == torch.float32 for weight in again.parameters())
