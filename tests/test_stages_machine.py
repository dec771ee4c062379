"""What a stage does where the machine is at fault: the disk, the memory, the clock, its paths, another process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import ENVIRONMENT, stage
from tiny_data import INSTRUCTIONS, STEPS, sft, written

from train.checkpoints import damage, newest
from train.digests import folder_digests

FOUR = ("trainer.max_steps=4", "trainer.save_every=1", "data.eval_fraction=0")


def mounted(folder: Path, *options: str) -> bool:
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that holds one checkpoint of the tiny model, but not two."""
    disk = tmp_path / "disk"
    if not mounted(disk, "-o", "size=2200k"):
        pytest.skip("a small disk can be mounted by root alone")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_fills_up_in_a_save_ends_with_6_and_leaves_the_checkpoint_before(
    small_disk: Path, tiny: Path, llama_folder: str
) -> None:
    given = sft(small_disk, llama_folder, tiny / "alpaca.jsonl", *FOUR)
    ended = stage("sft", *given, cwd=tiny)
    folder = small_disk / "out/default/sft"
    assert ended.code == 6
    assert re.search(rf"{folder}: the disk is full, \d+ bytes are left, a checkpoint takes \d+; ", ended.error)
    assert newest(folder / "checkpoints")[0] == folder / "checkpoints/checkpoint-1"
    assert damage(folder / "checkpoints/checkpoint-1") is None

    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    again = stage("sft", *given, cwd=tiny)
    assert again.code == 0 and "going on from step 1" in again.stderr


def test_a_disk_without_any_room_is_said_before_anything_loads(small_disk: Path, tiny: Path) -> None:
    (small_disk / "filled").write_bytes(bytes(2_100_000))
    with (small_disk / "rest").open("wb", buffering=0) as rest, pytest.raises(OSError):
        while True:
            rest.write(bytes(512))
    ended = stage("sft", *sft(small_disk, "no model", tiny / "alpaca.jsonl"), cwd=tiny)
    assert ended.code == 6 and str(small_disk / "out") in ended.error and "choose outputs=" in ended.error


def test_a_quota_on_files_ends_with_6_and_the_folder(tiny: Path, llama_folder: str, tmp_path: Path) -> None:
    given = sft(tmp_path, llama_folder, tiny / "alpaca.jsonl", *FOUR)
    ended = stage("sft", *given, cwd=tiny, limits={"RLIMIT_FSIZE": 200_000})
    assert ended.code == 6 and f"{tmp_path / 'out/default/sft'}: files may not grow so big" in ended.error


def test_paths_with_spaces_and_any_letters_and_a_home_that_is_not_there_work(
    tiny: Path, llama_folder: str, tmp_path: Path
) -> None:
    folder = tmp_path / "ein Ordner, größer: 日本語 (1)"
    folder.mkdir()
    (folder / "ein Modell").symlink_to(llama_folder)
    data = written(folder / "Fragen & Antworten.jsonl", INSTRUCTIONS)
    quoted = (
        f"data.path='{data}'",
        f"model.path='{folder / 'ein Modell'}'",
        f"outputs='{folder}'",
        "name='Versuch №1'",
    )
    ended = stage("sft", "data=alpaca", *quoted, *STEPS, cwd=folder, environment={"HOME": "/dev/null/nobody"})
    assert ended.code == 0, ended.stderr
    assert (folder / "Versuch №1/sft/manifest.json").is_file()
    written(folder / "zwei Größen.jsonl", INSTRUCTIONS)
    plain = ("data=alpaca", "data.path=zwei Größen.jsonl", "model.path=ein Modell", "outputs=.", "name=x y")
    ended = stage("sft", *plain, *STEPS, cwd=folder)
    assert ended.code == 0, ended.stderr


def test_a_clock_that_was_set_back_removes_no_new_checkpoint(tiny: Path, llama_folder: str, tmp_path: Path) -> None:
    """What was saved before is of tomorrow, so what is saved now looks older."""
    given = sft(tmp_path, llama_folder, tiny / "alpaca.jsonl", *FOUR)
    assert stage("sft", *given, cwd=tiny, fault="sft:step:3").code == -signal.SIGKILL
    folder, tomorrow = tmp_path / "out/default/sft", time.time() + 86_400
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (tomorrow, tomorrow))
    assert stage("sft", *given, cwd=tiny, fault="sft:save:3").code == -signal.SIGKILL
    assert newest(folder / "checkpoints")[0] == folder / "checkpoints/checkpoint-2"
    assert stage("sft", *given, cwd=tiny, fault="sft:step:4").code == -signal.SIGKILL
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert kept == ["checkpoint-2", "checkpoint-3"]
    assert stage("sft", *given, cwd=tiny).code == 0


def test_gpus_that_are_not_there_are_said_and_done_without(tiny: Path, llama_folder: str, tmp_path: Path) -> None:
    given = sft(tmp_path, llama_folder, tiny / "alpaca.jsonl")
    ended = stage("sft", *given, cwd=tiny, environment={"CUDA_VISIBLE_DEVICES": "7"})
    assert ended.code == 0
    assert "CUDA_VISIBLE_DEVICES=7 names no GPU that torch can use; the CPU does the work" in ended.stderr


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_rows(tmp_path_factory: pytest.TempPathFactory) -> str:
    """128 rows that fill the tiny model's positions: a step on all of them wants some 300 MB."""
    rows = [{"instruction": f"what is {i} ?", "input": "", "output": "lima " * 200} for i in range(128)]
    return written(tmp_path_factory.mktemp("long") / "rows.jsonl", rows)


ONE = ("trainer.max_steps=1", "data.eval_fraction=0")
LITTLE = {"RLIMIT_AS": 300_000_000}  # of which the threads of a backward pass take a part


def test_a_first_step_that_does_not_fit_is_taken_in_smaller_parts(
    long_rows: str, llama_folder: str, tmp_path: Path
) -> None:
    given = sft(tmp_path, llama_folder, long_rows, *ONE, "trainer.batch_size=128")
    ended = stage("sft", *given, "name=little", cwd=tmp_path, limits=LITTLE, limit=600)
    assert ended.code == 0, ended.stderr
    told = re.findall(r"out of memory in step 1, with (\d+) rows of (\d+) tokens at a time; raise", ended.stderr)
    assert told[0] == ("128", str(128 * 256))
    parts = 2 ** len(told)
    same = stage("sft", *given, "name=much", f"trainer.accumulation={parts}", cwd=tmp_path, limit=600)
    assert same.code == 0
    digests = [folder_digests(tmp_path / f"out/{name}/sft/model") for name in ("little", "much")]
    assert digests[0] == digests[1]


def test_a_step_that_does_not_fit_and_cannot_be_divided_ends_with_6_and_what_lowers_it(
    long_rows: str, llama_folder: str, tmp_path: Path
) -> None:
    given = sft(tmp_path, llama_folder, long_rows, *ONE, "trainer.batch_size=125")
    ended = stage("sft", *given, cwd=tmp_path, limits=LITTLE, limit=600)
    assert ended.code == 6 and f"with 125 rows of {125 * 256} tokens at a time" in ended.error
    for option in ("trainer.accumulation=1", "trainer.batch_size=125", "layout.max_length"):
        assert option in ended.error


# --- other processes --------------------------------------------------------------------------------------------------


def launched(folder: Path, *options: str, fault: str) -> tuple[int, list[str], float]:
    """`python -m launch.local n=2 grace=1 -m stages.sft`: its code, what it said of errors, and how long it took."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "launch.local", "n=2", "grace=1", "-m", "stages.sft", *options, "tracking=none"],
        cwd=folder,
        env={**os.environ, **ENVIRONMENT, "HHH_FAULT": fault},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, [x for x in done.stderr.splitlines() if "error:" in x], time.monotonic() - began


def test_a_process_that_dies_is_named_once_and_the_others_end(tiny: Path, llama_folder: str, tmp_path: Path) -> None:
    given = sft(tmp_path, llama_folder, tiny / "alpaca.jsonl", *FOUR)
    code, said, _ = launched(tiny, *given, fault="sft:step:2@1")
    assert code == 128 + signal.SIGKILL
    assert said == ["error: rank 1 was killed by signal 9; if nobody sent it, the machine ran out of memory"]


def test_a_process_that_hangs_ends_all_within_the_time_out(tiny: Path, llama_folder: str, tmp_path: Path) -> None:
    given = sft(tmp_path, llama_folder, tiny / "alpaca.jsonl", *FOUR)
    code, said, _ = launched(tiny, *given, "process_timeout=3", fault="sft:step:2@1=SIGSTOP")
    assert code == 1 and len(said) == 1
    assert "another process of this run did not answer in time (process_timeout=)" in said[0]


def test_an_error_of_every_process_is_said_once(tiny: Path, tmp_path: Path) -> None:
    ended = stage("sft", *sft(tmp_path, "no model", tiny / "alpaca.jsonl"), cwd=tmp_path, processes=2)
    assert ended.code == 4 and "no model" in ended.error


def test_an_error_of_the_main_process_alone_is_said_once(tiny: Path, llama_folder: str, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("no folder")
    ended = stage("sft", *sft(tmp_path, llama_folder, tiny / "alpaca.jsonl"), cwd=tmp_path, processes=2)
    assert ended.code == 6 and "cannot be written" in ended.error
