"""A task that srun started knows its place; nothing else that Slurm tells of takes one."""

from __future__ import annotations

import pytest

from train.processes import srun_place

# As srun sets them for the task of rank 5 on the second of two nodes with four tasks each.
TASK = {
    "SLURM_JOB_ID": "1200",
    "SLURM_STEP_ID": "3",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
}


def test_a_task_of_srun_is_told_in_torchruns_words() -> None:
    assert srun_place(TASK) == {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": str(10_000 + (1200 * 31 + 3) % 20_000),
    }


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[07-08]", "gpu07"), ("gpu[1,5-9]", "gpu1"), ("a,b", "a"), ("rack-2-node[010-012],x", "rack-2-node010")],
)
def test_the_first_node_of_the_step_is_where_they_meet(nodes: str, first: str) -> None:
    assert srun_place({**TASK, "SLURM_STEP_NODELIST": nodes})["MASTER_ADDR"] == first


def test_an_address_and_a_port_that_are_set_stand() -> None:
    place = srun_place({**TASK, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"})
    assert (place["MASTER_ADDR"], place["MASTER_PORT"]) == ("10.0.0.1", "29500")


def test_tasks_of_one_node_meet_there() -> None:
    place = srun_place({**TASK, "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NODELIST": "gpu07"})
    assert place["MASTER_ADDR"] == "127.0.0.1"


@pytest.mark.parametrize(("gpus", "local"), [("0,1,2,3", "1"), ("5", "0"), ("", "1")])
def test_a_task_that_sees_one_gpu_alone_takes_that(gpus: str, local: str) -> None:
    assert srun_place({**TASK, "CUDA_VISIBLE_DEVICES": gpus})["LOCAL_RANK"] == local


def test_two_jobs_on_one_machine_do_not_meet() -> None:
    ports = {srun_place({**TASK, "SLURM_JOB_ID": str(job)})["MASTER_PORT"] for job in range(1000, 1600)}
    assert len(ports) == 600


def test_a_batch_script_and_a_single_task_are_alone() -> None:
    """Slurm tells a batch script how many tasks its job has, and that it is the first."""
    batch = {name: value for name, value in TASK.items() if "STEP" not in name} | {"SLURM_PROCID": "0"}
    assert srun_place(batch) == {}
    assert srun_place({**TASK, "SLURM_STEP_NUM_TASKS": "1"}) == {}
