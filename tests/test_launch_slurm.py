"""The same stages under a real Slurm: tasks find each other, and what the scheduler stops goes on after it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command import ENVIRONMENT, ROOT, run, stage
from safetensors.torch import load_file
from slurm import Slurm, local_slurm
from tiny_data import sft
from torch.testing import assert_close

from train.digests import folder_digests

FEW = (
    "data.eval_fraction=0",
    "tracking=none",
    "trainer.epsilon=1e-3",
)  # a smaller one steps by signs of rounding errors
LIMIT = 1500.0  # seconds, on a machine that does much else


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Its jobs run in this interpreter and meet on this machine, whose nodes have names that nobody else knows."""
    with local_slurm(tmp_path_factory.mktemp("slurm")) as started:
        tests = {**ENVIRONMENT, "PATH": started.environment["PATH"], "PYTHON": sys.executable}
        started.environment.update(tests, MASTER_ADDR="127.0.0.1")
        yield started


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not after {LIMIT} s"
        time.sleep(0.1)


def trains(log: Path) -> bool:
    return log.exists() and log.read_text().count("\n") > 5


def test_tasks_on_two_nodes_train_the_model_of_one_process(
    cluster: Slurm, tiny: Path, llama_folder: str, tmp_path: Path
) -> None:
    given = (*sft(tmp_path, llama_folder, tiny / "alpaca.jsonl"), *FEW)
    together = cluster.run(
        *("srun", "--nodes=2", "--ntasks-per-node=1", sys.executable, "-m", "stages.sft", *given, "name=together"),
        cwd=tmp_path,
        limit=LIMIT,
    )
    assert together.returncode == 0, together.stderr
    alone = run("sft", *given, "name=alone").folder
    found = tmp_path / "out/together/sft"
    assert json.loads((found / "manifest.json").read_text())["hardware"]["processes"] == 2
    weights = [load_file(folder / "model/model.safetensors") for folder in (found, alone)]
    for name, weight in weights[0].items():
        assert_close(weight, weights[1][name], atol=1e-5, rtol=0, msg=name)


def test_a_job_that_is_stopped_saves_is_queued_again_and_ends_as_if_it_had_not_been(
    cluster: Slurm, tiny: Path, llama_folder: str, tmp_path: Path
) -> None:
    given = (*sft(tmp_path, llama_folder, tiny / "alpaca.jsonl"), *FEW, "trainer.max_steps=100", "trainer.save_every=0")
    tasks = ("--ntasks-per-node=2", "--gpus-per-node=2", "--cpus-per-task=1", f"--output={tmp_path / 'log'}")
    (tmp_path / "launch").symlink_to(ROOT / "launch")
    submitted = cluster.run(
        *("sbatch", "--parsable", *tasks, "launch/slurm/one_node.sbatch", "-m", "stages.sft", *given, "name=cut"),
        cwd=tmp_path,
    )
    assert submitted.returncode == 0, submitted.stderr
    job, log = submitted.stdout.strip(), tmp_path / "out/cut/sft/metrics.jsonl"
    until(lambda: trains(log), "the job trains")
    stopped = cluster.run("scancel", "--signal=USR1", job, cwd=tmp_path)
    assert stopped.returncode == 0, stopped.stderr
    found = cluster.wait(job, "COMPLETED", LIMIT)
    said = (tmp_path / "log").read_text()
    assert found["Restarts"] == "1", said
    [error] = [line for line in said.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: stopped by SIGUSR1, saved at step ") and "going on from step" in said

    whole = stage("sft", *given, "name=whole", cwd=tmp_path, processes=2, limit=LIMIT)
    assert whole.code == 0, whole.stderr
    digests = [folder_digests(tmp_path / f"out/{name}/sft/model") for name in ("cut", "whole")]
    assert digests[0] == digests[1]
    assert log.read_text() == (tmp_path / "out/whole/sft/metrics.jsonl").read_text()


def test_a_sweep_of_distributed_points_goes_on_where_one_is_stopped(
    cluster: Slurm, tiny: Path, llama_folder: str, tmp_path: Path
) -> None:
    """HHH_SWEEP_POINTS=6 for a larger one; two run at a time, one on each node."""
    rates = [str(1e-4 * (n + 1)) for n in range(int(os.environ.get("HHH_SWEEP_POINTS", "2")))]
    given = (*sft(tmp_path, llama_folder, tiny / "alpaca.jsonl"), *FEW, "trainer.max_steps=120", "trainer.save_every=0")
    fixed = [option for option in given if not option.startswith("trainer.learning_rate")]
    slurm = [f"hydra.launcher.{o}" for o in ("tasks_per_node=2", "cpus_per_task=1", "timeout_min=30")]
    command = [sys.executable, "-m", "stages.sft", "--multirun", "hydra/launcher=submitit_slurm", *slurm, *fixed]
    command += ["name=rates", f"trainer.learning_rate={','.join(rates)}"]
    with (tmp_path / "said").open("w") as said:
        sweep = subprocess.Popen(command, cwd=tmp_path, env=cluster.environment, stdout=said, stderr=said)
    points = [tmp_path / f"out/rates/learning_rate-{rate}/sft" for rate in rates]
    try:
        log = points[1] / "metrics.jsonl"
        until(
            lambda: sweep.poll() is not None or (log.exists() and log.read_text().count("\n") > 5), "the point trains"
        )
        assert sweep.poll() is None, (tmp_path / "said").read_text()
        listed = cluster.run("squeue", "--noheader", "--array", "--format=%F_%K %A", cwd=tmp_path).stdout.splitlines()
        point, job = next(line.split() for line in listed if "_1 " in line)
        # To its step: Slurm 22.05 signals an element of an array, says that it could not, and does it again.
        stopped = cluster.run("scancel", "--signal=USR2", f"{job}.0", cwd=tmp_path)
        assert stopped.returncode == 0, stopped.stderr
        assert sweep.wait(LIMIT) == 0, (tmp_path / "said").read_text()
    finally:
        sweep.kill()
        sweep.wait()
    assert cluster.job(point)["Restarts"] == "1"
    [said] = (tmp_path / "out/rates/.submitit").glob("*_1/*_1_0_log.err")
    assert "stopped by SIGUSR2, saved at step" in said.read_text() and "going on from step" in said.read_text()
    for rate, folder in zip(rates, points, strict=True):
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["hardware"]["processes"] == 2 and manifest["config"]["trainer.learning_rate"] == float(rate)
        alone = run("sft", *fixed, f"trainer.learning_rate={rate}", f"name=alone-{rate}").folder
        weights = [load_file(place / "model/model.safetensors") for place in (folder, alone)]
        for name, weight in weights[0].items():
            assert_close(weight, weights[1][name], atol=1e-4, rtol=0, msg=name)
    whole = stage("sft", *fixed, f"trainer.learning_rate={rates[1]}", "name=whole", cwd=tmp_path, processes=2)
    assert whole.code == 0, whole.stderr
    assert folder_digests(points[1] / "model") == folder_digests(tmp_path / "out/whole/sft/model")
