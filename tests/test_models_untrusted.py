"""Claims about model folders from anywhere: nothing that they bring is ever run."""

from __future__ import annotations

import os
import pickle
import textwrap
from pathlib import Path

import pytest
import torch
from test_models_loading import BOTH, Load, copied, edit_json, policy
from transformers import AutoModelForCausalLM

from models.errors import ArtifactError
from models.loading import ModelConfig


class _Planted:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch '{self.path}'",))


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickled_weights_run_no_code(llama_folder: str, tmp_path: Path, name: str, allowed: bool) -> None:
    folder, mark = copied(llama_folder, tmp_path / "model"), tmp_path / "ran"
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps({"model.norm.weight": _Planted(mark)}, protocol=2))
    with pytest.raises(
        ArtifactError, match="weights cannot be read" if allowed else f"{name}.*model.allow_pickle=true"
    ):
        policy(folder, allow_pickle=allowed)
    assert not mark.exists()


def test_a_torch_archive_runs_no_code_even_where_pickle_is_allowed(llama_folder: str, tmp_path: Path) -> None:
    folder, mark = copied(llama_folder, tmp_path / "model"), tmp_path / "ran"
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": torch.ones(64), "extra": _Planted(mark)}, folder / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match="weights cannot be read"):
        policy(folder, allow_pickle=True)
    assert not mark.exists()


def test_pickled_tensors_load_where_allowed(llama_folder: str, tmp_path: Path) -> None:
    folder = copied(llama_folder, tmp_path)
    (folder / "model.safetensors").unlink()
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    loaded, _ = policy(folder, allow_pickle=True)
    assert torch.equal(loaded.model.norm.weight, model.model.norm.weight)
    with pytest.raises(ArtifactError, match="allow_pickle"):
        policy(folder)


def test_pickle_is_not_read_though_some_other_safetensors_stand_beside_it(llama_folder: str, tmp_path: Path) -> None:
    folder = copied(llama_folder, tmp_path)
    torch.save(AutoModelForCausalLM.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    with pytest.raises(ArtifactError, match="weights cannot be read"):
        policy(folder)


def test_pickle_beside_safetensors_is_left_alone(llama_folder: str, tmp_path: Path) -> None:
    folder, mark = copied(llama_folder, tmp_path / "model"), tmp_path / "ran"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": _Planted(mark)}))
    policy(folder)
    assert not mark.exists()


@BOTH
@pytest.mark.parametrize("kind", ["of its own", "llama"])
def test_code_that_a_folder_brings_is_not_run(llama_folder: str, tmp_path: Path, load: Load, kind: str) -> None:
    folder, mark = copied(llama_folder, tmp_path / "model"), tmp_path / "ran"
    (folder / "planted.py").write_text(
        textwrap.dedent(f"""
            open({str(mark)!r}, "w")
            from transformers import LlamaConfig, LlamaForCausalLM
            class PlantedConfig(LlamaConfig): ...
            class PlantedModel(LlamaForCausalLM): ...
        """)
    )
    brought = {"AutoConfig": "planted.PlantedConfig", "AutoModelForCausalLM": "planted.PlantedModel"}
    edit_json(folder / "config.json", auto_map=brought, **({"model_type": "planted"} if kind == "of its own" else {}))
    with pytest.raises(ArtifactError, match=r"model\.trust_remote_code=true"):
        load(str(folder), ModelConfig(path=str(folder)))
    assert not mark.exists()


def test_a_tokenizer_that_brings_code_is_not_run(llama_folder: str, tmp_path: Path) -> None:
    folder, mark = copied(llama_folder, tmp_path / "model"), tmp_path / "ran"
    (folder / "planted.py").write_text(f"open({str(mark)!r}, 'w')\nclass Planted: ...\n")
    edit_json(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": [None, "planted.Planted"]},
        tokenizer_class="Planted",
    )
    with pytest.raises(ArtifactError, match=r"model\.trust_remote_code=true"):
        policy(folder)
    assert not mark.exists()
