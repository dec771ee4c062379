"""Claims about the lock: one live run a folder, its owner named, and the dead hold nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.errors import ConfigError, ResourceError
from train.lock import FolderLock

ROOT = Path(__file__).parent.parent


def write_lock(folder: Path, **owner: object) -> None:
    """A lock as this very process would hold it, except as told."""
    lock = FolderLock(folder)
    lock.acquire()
    lock.path.write_text(json.dumps({**json.loads(lock.path.read_text()), **owner}))


@pytest.fixture
def other() -> Iterator[subprocess.Popen[str]]:
    """A live process that holds no lock."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True)
    yield process
    process.communicate("\n")


def test_a_lock_is_held_until_released(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "stage"
    lock = FolderLock(folder)
    lock.acquire()
    with pytest.raises(ConfigError):
        FolderLock(folder).acquire()
    lock.release()
    FolderLock(folder).acquire()


def test_a_live_owner_is_named(tmp_path: Path) -> None:
    FolderLock(tmp_path).acquire()
    with pytest.raises(ConfigError, match=rf"process {os.getpid()} on {socket.gethostname()} since \d{{4}}-"):
        FolderLock(tmp_path).acquire()


def test_the_lock_of_a_process_that_is_gone_is_taken_over(tmp_path: Path) -> None:
    code = f"from pathlib import Path; from train.lock import *; FolderLock(Path({str(tmp_path)!r})).acquire()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    lock = FolderLock(tmp_path)
    assert lock.path.exists()
    lock.acquire()
    assert json.loads(lock.path.read_text())["pid"] == os.getpid()


def test_a_recycled_process_id_is_not_the_owner(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    write_lock(tmp_path, pid=other.pid)  # alive, but it started at another tick than the owner did
    FolderLock(tmp_path).acquire()


def test_a_lock_of_another_host_is_believed(tmp_path: Path) -> None:
    write_lock(tmp_path, host="elsewhere", pid=1)
    with pytest.raises(ConfigError, match=r"process 1 on elsewhere.*\.lock"):
        FolderLock(tmp_path).acquire()


@pytest.mark.parametrize("content", ["", "{", "[]", "5", "{}", '{"pid": null}', '{"pid": "x"}'])
def test_a_broken_lock_holds_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / ".lock").write_text(content)
    FolderLock(tmp_path).acquire()


def test_a_lock_is_never_seen_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty lock would be taken for a broken one, and its live owner pushed aside."""
    dump, seen = json.dumps, []

    def looking(*args: object, **options: object) -> str:
        seen.append((tmp_path / ".lock").exists())
        return dump(*args, **options)

    monkeypatch.setattr("json.dumps", looking)
    monkeypatch.setattr("json.dump", lambda value, file: file.write(looking(value)))
    FolderLock(tmp_path).acquire()
    assert seen == [False]
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


def test_releasing_twice_is_once(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    lock.acquire()
    lock.release()
    lock.release()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError, match="file/stage: cannot be written"):
        FolderLock(tmp_path / "file" / "stage").acquire()


def test_what_a_slurm_job_held_before_it_was_started_again_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    write_lock(tmp_path, host="a node that failed", pid=1)
    with pytest.raises(ConfigError):
        FolderLock(tmp_path).acquire()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    with pytest.raises(ConfigError):
        FolderLock(tmp_path).acquire()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    FolderLock(tmp_path).acquire()
