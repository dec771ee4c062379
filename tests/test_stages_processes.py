"""Several processes, plain or under DeepSpeed, make the artefact that one process makes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from command import ENVIRONMENT, run, stage
from tiny_data import INSTRUCTIONS, ROLLOUTS, STEPS, written
from transformers import AutoModelForCausalLM, AutoTokenizer

# A warm-up, a schedule, clipping and weight decay that all bite, so that whoever drops one of them is seen.
BITING = (
    *("trainer.max_steps=8", "trainer.warmup_steps=2", "trainer.schedule=cosine", "trainer.final_rate=0.1"),
    *("trainer.max_grad_norm=0.5", "trainer.weight_decay=0.1", "trainer.accumulation=2", "trainer.batch_size=4"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def options(folder: Path, llama_folder: str) -> tuple[str, ...]:
    data = written(folder / "data.jsonl", INSTRUCTIONS)
    return ("data=alpaca", f"data.path={data}", f"model.path={llama_folder}", f"outputs={folder}", *STEPS, *BITING)


@pytest.fixture(scope="module")
def alone(options: tuple[str, ...]) -> Path:
    """The artefact of one process."""
    return run("sft", *options, "name=alone").folder


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())]


@pytest.mark.parametrize(
    ("deepspeed", "torchrun"),
    [("none", False), ("zero2", True), ("zero3", False)],
    ids=["plain", "zero2 from torchrun", "zero3"],
)
def test_two_processes_follow_the_losses_of_one_and_seal_its_model(
    deepspeed: str, torchrun: bool, options: tuple[str, ...], alone: Path, folder: Path
) -> None:
    missing = [tool for tool in ("g++", "ninja") if shutil.which(tool, path=ENVIRONMENT["PATH"]) is None]
    if deepspeed != "none" and missing:
        pytest.skip(f"DeepSpeed compiles an operator and needs {' and '.join(missing)}")
    sharded = ("name=" + deepspeed, "deepspeed=" + deepspeed)
    ended = stage("sft", *options, *sharded, cwd=folder, processes=2, fresh=torchrun, limit=500)
    assert ended.code == 0, ended.stderr
    found = folder / deepspeed / "sft"
    assert losses(found) == pytest.approx(losses(alone), abs=1e-5)
    assert len(losses(found)) == 8
    ours, theirs = (AutoModelForCausalLM.from_pretrained(path / "model") for path in (found, alone))
    for (name, ours_value), theirs_value in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(ours_value, theirs_value, atol=1e-5, rtol=0, msg=name)
    assert AutoTokenizer.from_pretrained(found / "model").chat_template is not None
    manifest = json.loads((found / "manifest.json").read_text())
    assert manifest["hardware"]["processes"] == 2
    assert manifest["metrics"] == pytest.approx(json.loads((alone / "manifest.json").read_text())["metrics"], abs=1e-5)


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_two_processes_roll_out_together_what_one_rolls_out(algorithm: str, tiny: Path, tmp_path: Path) -> None:
    options = (
        *("data=prompts", f"data.path={tiny / 'prompts.jsonl'}", f"model.path={tiny / 'outputs/tiny/sft'}"),
        *(f"reward.path={tiny / 'outputs/tiny/reward'}", f"rl.algorithm={algorithm}", "rl.samples=2", *ROLLOUTS),
        *("rl.rollouts=2", "rl.max_update_kl=10", "trainer.batch_size=4", "trainer.learning_rate=1e-3"),
        "trainer.epsilon=1e-3",  # or the first steps of Adam are the signs of rounding errors
        f"outputs={tmp_path}",
    )
    for name, processes in (("alone", 1), ("together", 2)):
        ended = stage("ppo", *options, f"name={name}", cwd=tmp_path, processes=processes, limit=500)
        assert ended.code == 0, ended.stderr
    alone, together = (logged_numbers(tmp_path / name / "ppo") for name in ("alone", "together"))
    assert len(alone) == len(together) > 4
    for ours, theirs in zip(alone, together, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-4)
    looks = [json.loads((tmp_path / name / "ppo/looks/2.json").read_text()) for name in ("alone", "together")]
    said = [[(a["prompt"], a["text"], a["ended"]) for a in look["answers"]] for look in looks]
    assert said[0] == said[1]


def logged_numbers(folder: Path) -> list[dict[str, float]]:
    """Every line of the log, less what the clock says."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if not k.startswith("seconds/")} for line in lines]
