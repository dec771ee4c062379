"""One command for the whole chain: what it leaves, what it leaves alone, and that no interruption changes that."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from command import Ended, stage

from train.digests import file_digest

STAGES = ("base", "sft", "reward", "referee", "ppo", "dpo", "evaluate")
RANKING = ("prompts=16", "held_out=8", "max_new_tokens=4")
OPTIONS = [
    "base.data.limit=300",
    *(
        f"base.architecture.{size}"
        for size in ("hidden=32", "layers=1", "heads=2", "feed_forward=48", "vocabulary=300")
    ),
    *("base.trainer.max_steps=4", "base.trainer.batch_size=8"),
    *("sft.data.limit=48", "sft.trainer.max_steps=4", "sft.trainer.batch_size=8"),
    *(f"{model}.sampling.{option}" for model in ("reward", "referee") for option in RANKING),
    *("reward.trainer.max_steps=4", "reward.trainer.batch_size=4"),
    *("referee.trainer.max_steps=4", "referee.trainer.batch_size=4"),
    *("ppo.rl.rollouts=2", "ppo.rl.prompts=8", "ppo.rl.max_new_tokens=4", "ppo.rl.evaluation_prompts=8"),
    *("ppo.rl.ptx_batch_size=4", "ppo.trainer.batch_size=4", "ppo.data.limit=64", "ppo.ptx.limit=64"),
    *("dpo.trainer.max_steps=4", "dpo.trainer.batch_size=4"),
    *("evaluate.per_family=1", "evaluate.max_new_tokens=4", "evaluate.side_by_side=4"),
    *(f"{name}.trainer.save_every=1" for name in ("base", "sft", "reward", "referee", "ppo", "dpo")),
    *(f"{name}.trainer.log_every=1" for name in ("base", "sft", "reward", "referee", "ppo", "dpo")),
]
ESTIMATES = (
    *(f"gold.{axis}" for axis in ("helpful", "honest", "harmless", "mean")),
    *(f"reward.{axis}" for axis in ("helpful", "honest", "harmless", "mean")),
    *("length", "zero_shot", "few_shot", "perplexity"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipeline")


def pipeline(folder: Path, name: str, *options: str, fault: str | None = None) -> Ended:
    return stage("pipeline", *OPTIONS, f"outputs={folder}", f"name={name}", *options, cwd=folder, fault=fault)


@pytest.fixture(scope="module")
def whole(folder: Path) -> Ended:
    """An uninterrupted run."""
    return pipeline(folder, "whole")


@pytest.fixture(scope="module")
def cut(folder: Path) -> Ended:
    """The same, killed in each stage in turn and started again."""
    for place in ("base:step:3", "sft:step:2", "reward:step:3", "referee:step:2", "ppo:step:6", "dpo:step:3"):
        killed = pipeline(folder, "cut", fault=place)
        assert killed.code == -9, (place, killed.stderr)
    return pipeline(folder, "cut")


def manifests(folder: Path) -> dict[str, str]:
    return {name: file_digest(folder / name / "manifest.json") for name in STAGES}


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def at(tree: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree


def test_the_pipeline_ends_well_and_seals_every_stage(whole: Ended, folder: Path) -> None:
    assert whole.code == 0, whole.stderr
    assert "gold mean" in whole.stdout and "results.json" in whole.stdout and "report.html" in whole.stdout
    made = {name: manifest(folder / "whole" / name) for name in STAGES}
    assert {name: m["stage"] for name, m in made.items()} == {name: name for name in STAGES}
    assert {Path(parent).name for parent in made["ppo"]["parents"].values()} == {"sft", "reward", "referee"}
    assert not list((folder / "whole").rglob("checkpoints"))


def test_results_hold_every_estimate_with_its_interval(whole: Ended, folder: Path) -> None:
    results = json.loads((folder / "whole/results.json").read_text())
    assert set(results) == {"base", "sft", "ppo", "dpo"}
    for name, found in results.items():
        for key in (*ESTIMATES, *(["kl"] if name != "base" else [])):  # the base's tokens are others than those of sft
            estimate = at(found, key)
            assert set(estimate) == {"mean", "low", "high", "n"}, (name, key)
            assert estimate["low"] <= estimate["mean"] <= estimate["high"] and estimate["n"] > 0, (name, key)


def test_the_report_stands_alone(whole: Ended, folder: Path) -> None:
    page = (folder / "whole/report.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!#|data:)', page) and "@import" not in page and "<script src" not in page
    assert page.count("<svg") >= 3
    assert all(name in page for name in ("base", "sft", "ppo", "dpo"))


def test_a_second_call_does_nothing_and_says_so(whole: Ended, folder: Path) -> None:
    before = manifests(folder / "whole")
    again = pipeline(folder, "whole")
    assert again.code == 0
    assert again.stderr.count("done already, unchanged") == len(STAGES)
    assert manifests(folder / "whole") == before


def test_being_killed_in_every_stage_changes_no_weight_and_no_metric(whole: Ended, cut: Ended, folder: Path) -> None:
    assert cut.code == 0, cut.stderr
    for name in STAGES:
        ours, theirs = manifest(folder / "cut" / name), manifest(folder / "whole" / name)
        assert ours["identity"] == theirs["identity"], name
        assert ours["files"] == theirs["files"], name
        assert ours["metrics"] == theirs["metrics"], name
    assert (folder / "cut/results.json").read_bytes() == (folder / "whole/results.json").read_bytes()


def test_a_changed_option_redoes_its_stage_and_those_after_it(whole: Ended, cut: Ended, folder: Path) -> None:
    before = manifests(folder / "cut")
    changed = pipeline(folder, "cut", "dpo.loss.beta=0.7")
    assert changed.code == 0, changed.stderr
    after = manifests(folder / "cut")
    assert {name for name in STAGES if after[name] != before[name]} == {"dpo", "evaluate"}
    assert manifest(folder / "cut/dpo")["config"]["loss.beta"] == 0.7
