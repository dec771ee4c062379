"""Sweeps as a person types them: points beside each other, what fails, what goes on, searches, pruning, the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import Ended, stage
from tiny_data import INSTRUCTIONS, sft, written

from train.wandb_log import records

RATES = "trainer.learning_rate=1e-3,1e-2"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("rows") / "alpaca.jsonl", INSTRUCTIONS)


def options(folder: Path, model: str, data: str, *more: str) -> list[str]:
    plain = (option for option in sft(folder, model, data) if "learning_rate" not in option)
    return [*plain, "data.eval_fraction=0.2", *more]


def sweep(folder: Path, model: str, data: str, *more: str, **how: Any) -> Ended:
    return stage("sft", "--multirun", *options(folder, model, data, "name=s", *more), cwd=folder, **how)


def manifest(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "out" / name / "sft/manifest.json").read_text())


def point(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "out/s" / name / "point.json").read_text())


@pytest.fixture(scope="module")
def grid(llama_folder: str, data: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """Two points that end and one that fails."""
    folder = tmp_path_factory.mktemp("grid")
    objectives = ("hydra.sweeper.minimize=[eval_nll,seconds]",)
    return folder, sweep(folder, llama_folder, data, "trainer.learning_rate=1e-3,-1.0,1e-2", *objectives)


def test_each_point_is_an_experiment_of_its_own(grid: tuple[Path, Ended]) -> None:
    folder, _ = grid
    for name, rate in (("learning_rate-0.001", 0.001), ("learning_rate-0.01", 0.01)):
        made, found = manifest(folder, f"s/{name}"), point(folder, name)
        assert made["config"]["trainer.learning_rate"] == rate and made["run"]["name"] == f"s/{name}"
        assert found["state"] == "sealed" and found["metrics"]["eval_nll"] == made["metrics"]["eval_nll"]
        assert found["metrics"]["seconds"] == made["wall_seconds"]
    assert not (folder / "multirun").exists() and not (folder / "outputs").exists()


def test_a_point_that_fails_is_told_and_stops_no_other(grid: tuple[Path, Ended]) -> None:
    folder, ended = grid
    assert ended.code == 2
    assert ended.error.startswith("1 of 3 points failed; learning_rate--1.0: trainer.learning_rate=-1.0: expected")
    failed = point(folder, "learning_rate--1.0")
    assert failed["state"] == "failed" and failed["code"] == 2 and "expected" in failed["cause"]
    assert "learning_rate--1.0 failed: trainer.learning_rate=-1.0: expected a number above 0" in ended.stdout


def test_a_point_has_the_weights_of_the_stage_run_alone(grid: tuple[Path, Ended], llama_folder: str, data: str) -> None:
    folder, _ = grid
    alone = options(folder, llama_folder, data, "name=alone", "trainer.learning_rate=1e-2")
    assert stage("sft", *alone, cwd=folder).code == 0
    ours, swept = manifest(folder, "alone"), manifest(folder, "s/learning_rate-0.01")
    assert (swept["identity"], swept["files"]) == (ours["identity"], ours["files"])


def test_typed_again_only_what_is_missing_is_run(grid: tuple[Path, Ended], llama_folder: str, data: str) -> None:
    folder, _ = grid
    again = sweep(folder, llama_folder, data, "trainer.learning_rate=1e-3,1e-2,5e-3")
    assert again.stderr.count("done already, unchanged") == 2
    assert point(folder, "learning_rate-0.005")["state"] == "sealed"
    assert again.code == 2, "the point that failed before is still one of the sweep's"


def test_another_sweep_of_that_name_is_refused(grid: tuple[Path, Ended], llama_folder: str, data: str) -> None:
    folder, _ = grid
    other = sweep(folder, llama_folder, data, "seed=3", RATES)
    assert other.code == 2 and "holds another sweep; it differs in seed=3. Choose another name=" in other.error


def test_the_report_of_a_sweep(grid: tuple[Path, Ended]) -> None:
    folder, _ = grid
    assert stage("report", "sweep=out/s", cwd=folder).code == 0
    page = (folder / "out/s/report.html").read_text(encoding="utf-8")
    assert "Trade-off" in page and "learning_rate--1.0 failed" in page and "trainer.learning_rate=−1.0" not in page
    assert stage("report", "sweep=out/s", "minimize=[los]", cwd=folder).error.startswith("los: not a metric of out/s")
    assert "no sweep.json" in stage("report", "sweep=out", cwd=folder).error
    assert stage("report", "minimize=[eval_nll]", cwd=folder).code == 2


def test_the_table_goes_to_wandb_as_a_run_of_the_sweeps_group(grid: tuple[Path, Ended]) -> None:
    folder, _ = grid
    offline = {"WANDB_MODE": "offline", "WANDB_API_KEY": ""}
    assert stage("report", "sweep=out/s", "tracking=wandb", cwd=folder, environment=offline).code == 0
    (file,) = (folder / "out/s/wandb").glob("*/*.wandb")
    (run,) = (record.run for record in records(file) if record.HasField("run"))
    assert (run.run_group, run.job_type) == ("s", "sweep")
    (table,) = file.parent.rglob("points*.table.json")
    rows = json.loads(table.read_text())["data"]
    assert ["learning_rate--1.0", "failed"] in [[row[0], row[-2]] for row in rows]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ((), "no option varies"),
        (("trainer.learning_rtae=1e-3,1e-2",), "unknown option trainer.learning_rtae; did you mean"),
        (("name=a,b",), "name=a,b: changes nothing of what a point is"),
        (("trainer.learning_rate=interval(1e-5,1e-3)",), "a range has no grid"),
        (("trainer.learning_rate=interval(1e-5,1e-3)", "hydra/sweeper=optuna"), "say hydra.sweeper.maximize=[...]"),
        ((RATES, "hydra.sweeper.prune.better=more"), "prune.better=more: expected lower or higher"),
        ((RATES, "hydra.sweeper.minimise=[x]"), "unknown option hydra.sweeper.minimise"),
    ],
)
def test_what_makes_no_sweep_is_refused_before_anything_runs(
    typed: tuple[str, ...], said: str, llama_folder: str, data: str, tmp_path: Path
) -> None:
    ended = sweep(tmp_path, llama_folder, data, *typed)
    assert ended.code == 2 and said in ended.error
    assert not list(tmp_path.rglob("manifest.json"))


def test_a_stage_that_leaves_nothing_cannot_be_swept(tmp_path: Path) -> None:
    ended = stage("chat", "--multirun", "model.path=x", "seed=1,2", cwd=tmp_path)
    assert ended.code == 2 and "leaves nothing" in ended.error


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_points_run_side_by_side_in_processes_of_their_own(
    launcher: str, llama_folder: str, data: str, tmp_path: Path
) -> None:
    own = {"joblib": "hydra.launcher.n_jobs=2", "submitit_local": "hydra.launcher.timeout_min=5"}[launcher]
    ended = sweep(tmp_path, llama_folder, data, RATES, f"hydra/launcher={launcher}", own, limit=300.0)
    assert ended.code == 0, ended.stderr
    assert {point(tmp_path, f"learning_rate-{rate}")["state"] for rate in ("0.001", "0.01")} == {"sealed"}


def test_a_sweep_that_is_killed_goes_on_where_its_point_was(llama_folder: str, data: str, tmp_path: Path) -> None:
    saving = (RATES, "trainer.save_every=1")
    assert sweep(tmp_path, llama_folder, data, *saving, fault="sft:step:2").code == -9
    assert point(tmp_path, "learning_rate-0.001")["state"] == "running"
    again = sweep(tmp_path, llama_folder, data, *saving)
    assert again.code == 0 and again.stderr.count("going on from step 1") == 1


def test_a_sweep_that_is_asked_to_stop_starts_no_other_point(llama_folder: str, data: str, tmp_path: Path) -> None:
    stopped = sweep(tmp_path, llama_folder, data, RATES, fault="sft:step:1=SIGTERM")
    assert stopped.code == 75, stopped.stderr
    states = [point(tmp_path, f"learning_rate-{rate}")["state"] for rate in ("0.001", "0.01")]
    assert states == ["stopped", "waiting"]
    again = sweep(tmp_path, llama_folder, data, RATES)
    assert again.code == 0 and again.stderr.count("going on from step 1") == 1


SEARCH = (
    "hydra/sweeper=optuna",
    "trainer.learning_rate=tag(log,interval(1e-4,1e-1))",
    "trainer.batch_size=choice(2,4)",
    "hydra.sweeper.n_startup_trials=2",
)


def test_a_search_over_two_objectives_goes_on_from_its_file(llama_folder: str, data: str, tmp_path: Path) -> None:
    both = (*SEARCH, "hydra.sweeper.minimize=[eval_nll,tokens]")
    first = sweep(tmp_path, llama_folder, data, *both, "hydra.sweeper.n_trials=2")
    assert first.code == 0, first.stderr
    drawn = point(tmp_path, "trial-1")
    second = sweep(tmp_path, llama_folder, data, *both, "hydra.sweeper.n_trials=3")
    assert second.code == 0 and "best: trial-" in second.stdout
    assert point(tmp_path, "trial-1") == drawn and point(tmp_path, "trial-2")["state"] == "sealed"
    assert "done already" not in second.stderr, "finished trials are not even looked at"


def test_a_metric_that_no_stage_reports_ends_the_search_after_its_first_point(
    llama_folder: str, data: str, tmp_path: Path
) -> None:
    ended = sweep(tmp_path, llama_folder, data, *SEARCH, "hydra.sweeper.minimize=[eval_nl]")
    assert ended.code == 2 and ended.error.startswith("eval_nl: not a metric of this sweep; there are")
    assert "eval_nll" in ended.error and not (tmp_path / "out/s/trial-1").exists()
    right = ("hydra.sweeper.minimize=[eval_nll]", "hydra.sweeper.n_trials=1")
    again = sweep(tmp_path, llama_folder, data, *SEARCH, *right)
    assert again.code == 0 and "done already, unchanged" in again.stderr


def test_a_point_worse_than_the_median_is_pruned_and_stays_so(llama_folder: str, data: str, tmp_path: Path) -> None:
    steps = ("trainer.max_steps=6", "hydra.sweeper.prune.metric=loss", "hydra.sweeper.prune.after_points=2")
    rates = "trainer.learning_rate=1e-2,2e-2,1e-7"
    ended = sweep(tmp_path, llama_folder, data, rates, *steps, "hydra.sweeper.minimize=[eval_nll]")
    assert ended.code == 0, ended.stderr
    pruned = point(tmp_path, "learning_rate-1e-07")
    assert pruned["state"] == "pruned" and "the median of 2 others" in pruned["cause"]
    assert not list((tmp_path / "out/s/learning_rate-1e-07").rglob("manifest.json"))
    again = sweep(tmp_path, llama_folder, data, rates, *steps, "hydra.sweeper.minimize=[eval_nll]")
    assert again.code == 0 and point(tmp_path, "learning_rate-1e-07") == pruned
