"""lm-evaluation-harness on a task file of one's own, without a network."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from command import refused, stage
from tiny_data import INSTRUCTIONS, written
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.errors import ConfigError

INSTALLED = importlib.util.find_spec("lm_eval") is not None
needs_harness = pytest.mark.skipif(not INSTALLED, reason="lm-evaluation-harness is absent; pip install lm-eval")
CAPITALS = [
    {"question": f"the capital of {country} is", "choices": ["lima", "madrid", "the library"], "label": i % 3}
    for i, country in enumerate(("peru", "spain", "chad", "nepal", "fiji"))
]
TASK = """
task: capitals
dataset_path: json
dataset_kwargs:
  data_files: {{test: "{rows}"}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture
def options(llama_folder: str, tmp_path: Path) -> tuple[str, ...]:
    """A folder of tasks with one task, and little else to evaluate."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "capitals.yaml").write_text(TASK.format(rows=written(folder / "capitals.jsonl", CAPITALS)))
    data = ("data=alpaca", f"data.path={written(tmp_path / 'rows.jsonl', INSTRUCTIONS[:4])}", "data.side=all")
    return (*data, f"outputs={tmp_path}", "name=x", "max_new_tokens=2", f"models.before={llama_folder}",
            f"harness.include={folder}")  # fmt: skip


def accuracy(folder: str) -> list[float]:
    """Of each row, whether the right choice has the highest log-probability after the question and a space."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    found = []
    for row in CAPITALS:
        start = tokenizer(row["question"]).input_ids
        logprobs = []
        for choice in row["choices"]:
            ids = tokenizer(f"{row['question']} {choice}").input_ids
            chosen = model(torch.tensor([ids])).logits[0, len(start) - 1 : -1].log_softmax(-1)
            logprobs.append(chosen.gather(1, torch.tensor(ids[len(start) :])[:, None]).sum().item())
        found.append(float(max(range(3), key=logprobs.__getitem__) == row["label"]))
    return found


@needs_harness
def test_a_local_task_is_measured_with_its_standard_error_and_compared(
    options: tuple[str, ...], llama_folder: str, qwen2_folder: str, tmp_path: Path
) -> None:
    task = ("harness.tasks=[capitals]", f"models.after={qwen2_folder}")
    offline = {"HF_DATASETS_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    ended = stage("evaluate", *options, *task, environment=offline, cwd=tmp_path)
    assert ended.code == 0, ended.stderr
    results = json.loads((tmp_path / "x/evaluate/results.json").read_text())
    before, after = (results[name]["harness"]["capitals"]["acc"] for name in ("before", "after"))
    rows = torch.tensor(accuracy(llama_folder))
    assert before["mean"] == pytest.approx(rows.mean().item()) and before["n"] == 5 and before["higher_is_better"]
    assert before["stderr"] == pytest.approx(rows.std().item() / 5**0.5)
    assert 0 <= before["low"] <= before["mean"] <= before["high"] <= 1
    gain = results["after"]["gain"]["harness"]["capitals"]["acc"]
    assert gain["mean"] == pytest.approx(after["mean"] - before["mean"]) and gain["n"] == 5
    assert stage("report", f"outputs={tmp_path}", "name=x", cwd=tmp_path).code == 0
    assert "capitals (lm-eval)" in (tmp_path / "x/report.html").read_text(encoding="utf-8")


@needs_harness
def test_an_unknown_task_is_told_with_the_nearest_name(options: tuple[str, ...]) -> None:
    assert "did you mean capitals?" in refused(ConfigError, "evaluate", *options, "harness.tasks=[capitalz]")


@needs_harness
def test_a_task_whose_data_is_absent_ends_in_one_line(options: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "tasks/capitals.jsonl").unlink()
    ended = stage("evaluate", *options, "harness.tasks=[capitals]", cwd=tmp_path)
    assert ended.code == 3 and "capitals" in ended.error and "harness.include" in ended.error


@pytest.mark.skipif(INSTALLED, reason="lm-evaluation-harness is installed")
def test_without_the_library_it_is_said_how_to_get_it(options: tuple[str, ...], tmp_path: Path) -> None:
    ended = stage("evaluate", *options, "harness.tasks=[capitals]", cwd=tmp_path)
    assert ended.code == 2 and "pip install lm-eval" in ended.error
