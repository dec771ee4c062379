"""Which weights a stage trains, and that the others are what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command import run, stage
from tiny_data import INSTRUCTIONS, RANKINGS, STEPS, written
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from models.adapters import AdapterConfig, adapt
from models.errors import ConfigError


def data(folder: Path, kind: str, rows: list[dict[str, Any]]) -> tuple[str, str]:
    return f"data={kind}", f"data.path={written(folder / f'{kind}.jsonl', rows)}"


def moved(before: str | Path, after: Path, kind: type = AutoModelForCausalLM) -> set[str]:
    """Names of the backbone's weights that differ; rows that the vocabulary gained do not count."""
    old = AutoModelForCausalLM.from_pretrained(before).base_model.state_dict()
    new = kind.from_pretrained(after / "model").base_model.state_dict()
    return {name for name, weight in old.items() if not new[name][: len(weight)].equal(weight)}


def test_stages_leave_the_frozen_weights_as_they_were(llama_folder: str, tmp_path: Path) -> None:
    place = (f"outputs={tmp_path}", "name=frozen", "adapter=freeze")
    first = (*place, "adapter.frozen=[embeddings,*layers.0.*]")
    tuned = f"model.path={tmp_path}/frozen/sft"
    sft = run("sft", *first, f"model.path={llama_folder}", *STEPS, *data(tmp_path, "alpaca", INSTRUCTIONS)).folder
    made = {
        "reward": run("reward", *place, tuned, *STEPS, *data(tmp_path, "kwise", RANKINGS)),
        "dpo": run("dpo", *place, tuned, *STEPS, *data(tmp_path, "kwise", RANKINGS)),
    }
    names = moved(llama_folder, sft)
    assert "norm.weight" in names and any(name.startswith("layers.1.") for name in names)
    assert not any(name.startswith(("embed_tokens", "layers.0.")) for name in names)
    for name, artifact in made.items():
        kind = AutoModelForSequenceClassification if name == "reward" else AutoModelForCausalLM
        names = moved(sft / "model", artifact.folder, kind)
        assert any(name.startswith("layers.0.") for name in names) and "embed_tokens.weight" not in names


def test_a_pattern_that_names_no_weight_is_refused(llama_folder: str, tmp_path: Path) -> None:
    needed = (f"model.path={llama_folder}", *data(tmp_path, "alpaca", INSTRUCTIONS), f"outputs={tmp_path}")
    ended = stage("sft", *needed, "adapter=freeze", "adapter.frozen=[transformer.h.0.*]", cwd=tmp_path)
    assert ended.code == 2
    assert "transformer.h.0.*" in ended.error and "model.embed_tokens.weight" in ended.error


def test_freezing_everything_is_refused(gpt2_folder: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(gpt2_folder)
    with pytest.raises(ConfigError, match="nothing is left"):
        adapt(model, AdapterConfig("freeze", ["*"]))


@pytest.mark.parametrize(("method", "frozen"), [("freeze", []), ("full", ["embeddings"]), ("frozen", [])])
def test_a_method_and_its_names_go_together(method: str, frozen: list[str]) -> None:
    with pytest.raises(ConfigError, match="adapter"):
        AdapterConfig(method, frozen)
