"""Claims about checkpoints: complete or absent, the newest by number, and never one that somebody damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.errors import ArtifactError
from train.checkpoints import COMPLETE, checkpoint_step, complete, damage, named, newest, remove_incomplete, stage_state


def saved(folder: Path, step: int, *, whole: bool = True) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(bytes([step]) * 8)
    (checkpoint / "optimizer.pt").write_bytes(b"moments")
    if whole:
        complete(checkpoint, {"kl_coef": 0.1 * step})
    return checkpoint


def test_steps_are_ordered_by_number(tmp_path: Path) -> None:
    for step in (9, 100, 10):
        saved(tmp_path, step)
    found, passed_over = newest(tmp_path)
    assert found == tmp_path / "checkpoint-100" and not passed_over
    assert checkpoint_step(found) == 100


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert newest(tmp_path) == (None, {})
    assert newest(tmp_path / "absent") == (None, {})


def test_an_interrupted_save_is_passed_over_and_said(tmp_path: Path) -> None:
    good, cut = saved(tmp_path, 9), saved(tmp_path, 10, whole=False)
    found, passed_over = newest(tmp_path)
    assert found == good
    assert list(passed_over) == [cut] and "interrupted" in passed_over[cut]


@pytest.mark.parametrize("fault", ["flipped", "cut", "gone"])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt"])
def test_a_damaged_checkpoint_is_passed_over_and_the_file_is_named(tmp_path: Path, name: str, fault: str) -> None:
    good, bad = saved(tmp_path, 9), saved(tmp_path, 10)
    content = (bad / name).read_bytes()
    if fault == "gone":
        (bad / name).unlink()
    else:
        (bad / name).write_bytes(content[:-1] if fault == "cut" else bytes([content[0] ^ 1]) + content[1:])
    found, passed_over = newest(tmp_path)
    assert found == good
    assert list(passed_over) == [bad] and name in passed_over[bad]


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"files": {}}', '{"files": [1]}', '{"files": null}'])
def test_a_broken_record_is_damage(tmp_path: Path, content: str) -> None:
    good, bad = saved(tmp_path, 9), saved(tmp_path, 10)
    (bad / COMPLETE).write_text(content)
    assert newest(tmp_path)[0] == good
    with pytest.raises(ArtifactError, match=COMPLETE):
        named(bad)


def test_where_all_are_bad_there_is_none(tmp_path: Path) -> None:
    saved(tmp_path, 1, whole=False)
    saved(tmp_path, 2, whole=False)
    found, passed_over = newest(tmp_path)
    assert found is None and len(passed_over) == 2


def test_a_named_checkpoint_must_be_there_and_whole(tmp_path: Path) -> None:
    good, cut = saved(tmp_path, 9), saved(tmp_path, 10, whole=False)
    assert named(good) == good
    with pytest.raises(ArtifactError, match=f"{cut}: incomplete"):
        named(cut)
    with pytest.raises(ArtifactError, match="no such checkpoint"):
        named(tmp_path / "checkpoint-11")
    (good / "optimizer.pt").write_bytes(b"other")
    with pytest.raises(ArtifactError, match=r"optimizer\.pt is damaged"):
        named(good)


def test_a_checkpoint_remembers_what_the_stage_told_it(tmp_path: Path) -> None:
    assert stage_state(saved(tmp_path, 2)) == {"kl_coef": 0.2}


def test_a_checkpoint_completed_again_is_whole(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, 2)
    complete(checkpoint, {})
    assert damage(checkpoint) is None and stage_state(checkpoint) == {}


def test_cleaning_takes_what_is_not_whole_and_nothing_else(tmp_path: Path) -> None:
    saved(tmp_path, 9)
    saved(tmp_path, 10, whole=False)
    (tmp_path / "checkpoint-notes.txt").write_text("mine")
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "other").mkdir()
    remove_incomplete(tmp_path)
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {"checkpoint-9", "checkpoint-notes.txt", "checkpoint-best", "other"}


def test_other_names_are_no_checkpoints(tmp_path: Path) -> None:
    saved(tmp_path, 3)
    for name in ("checkpoint-best", "checkpoint-", "tmp-checkpoint-7", "checkpoint-7.tmp"):
        (tmp_path / name).mkdir()
    assert newest(tmp_path) == (tmp_path / "checkpoint-3", {})


def test_the_record_is_json_and_holds_all_files(tmp_path: Path) -> None:
    record = json.loads((saved(tmp_path, 1) / COMPLETE).read_text())
    assert set(record["files"]) == {"model.safetensors", "optimizer.pt"}
