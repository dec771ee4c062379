"""A run in the files of its trackers, when several processes went on with it one after the other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb_server import wandb_server

from train.callbacks import MetricsLog
from train.tracking import Tracker, TrackingConfig, open_tracker
from train.wandb_log import records


@pytest.fixture(autouse=True, scope="module")
def offline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        yield


def opened(folder: Path, backend: str, **options: Any) -> Tracker:
    cfg = TrackingConfig(backend=backend, **options)
    return open_tracker(cfg, folder, experiment="sweep/point", stage="sft", config={"trainer.learning_rate": 0.5})


def process(folder: Path, backend: str, *, after: int, until: int) -> None:
    """What a process logs that goes on after a step and ends, for whatever reason, after another."""
    tracker = opened(folder, backend)
    log = MetricsLog(folder / "metrics.jsonl", tracker)
    log.keep_until(after)
    for step in range(after + 1, until + 1):
        log.write({"loss": 1 / step}, step)
        log.write({"held_out/loss": 2 / step}, step)
        tracker.table("samples", [{"text": f"at {step}", "score": 0.5}], step)
    tracker.finish({}, exit_code=1)
    wandb.teardown()  # as a process does when it ends


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/*/*.wandb"), key=lambda file: file.stat().st_mtime)


def steps(*files: Path) -> list[int]:
    rows = [record.history for file in files for record in records(file) if record.HasField("history")]
    for row in rows:
        assert {"loss", "held_out/loss"} <= {item.key or "/".join(item.nested_key) for item in row.item}
    return [row.step.num for row in rows]


def sent(folder: Path) -> tuple[str, Any]:
    """The only run that `wandb sync` sends of a stage."""
    command = [Path(sys.executable).parent / "wandb", "sync", folder / "wandb"]
    with wandb_server() as server:
        given = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": server.url, "HOME": str(folder), "WANDB_MODE": "online"}
        ended = subprocess.run(command, cwd=folder, env={**os.environ, **given}, timeout=240, capture_output=True)
        assert ended.returncode == 0, ended.stderr
        [run] = server.runs.items()
        return run


def test_wandb_holds_each_step_once_and_sends_all_parts_as_one_run(tmp_path: Path) -> None:
    for after, until in ((0, 5), (3, 8), (8, 9)):
        process(tmp_path, "wandb", after=after, until=until)
    files = parts(tmp_path)
    assert [steps(file) for file in files] == [[1, 2, 3, 4, 5], [6, 7, 8], [9]]
    name, run = sent(tmp_path)
    assert name == (tmp_path / "wandb/run_id").read_text() and run.steps == list(range(1, 10))
    assert [run.history[row]["loss"] for row in sorted(run.history)] == [1 / step for step in range(1, 10)]
    assert run.about["groupName"] == "sweep" and run.about["displayName"] == "sweep/point/sft"


@pytest.mark.parametrize("left", [0.6, 0.0], ids=["half a record", "nothing"])
def test_what_wandb_had_not_written_when_it_was_killed_is_told_again(left: float, tmp_path: Path) -> None:
    process(tmp_path, "wandb", after=0, until=6)
    [file] = parts(tmp_path)
    os.truncate(file, max(7, int(file.stat().st_size * left)))
    assert len(steps(file)) < 5
    process(tmp_path, "wandb", after=6, until=8)
    assert steps(*parts(tmp_path)) == list(range(1, 9))
    assert len(parts(tmp_path)) == (2 if left else 1)
    assert sent(tmp_path)[1].steps == list(range(1, 9))


def test_a_table_lies_beside_the_run_that_names_it(tmp_path: Path) -> None:
    process(tmp_path, "wandb", after=0, until=1)
    [file] = parts(tmp_path)
    [table] = [r.artifact for r in records(file) if r.HasField("artifact")]
    assert table.type == "run_table"
    for entry in table.manifest.contents:
        assert Path(entry.local_path).is_file() and Path(entry.local_path).is_relative_to(tmp_path)


def test_tensorboard_shows_each_step_once(tmp_path: Path) -> None:
    for after, until in ((0, 5), (3, 8), (8, 9)):
        process(tmp_path, "tensorboard", after=after, until=until)
    seen = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    seen.Reload()
    for name, value in (("loss", 1), ("held_out/loss", 2)):
        points = [(point.step, point.value) for point in seen.Scalars(name)]
        assert points == [(step, pytest.approx(value / step)) for step in range(1, 10)]
    assert [point.step for point in seen.Tensors("samples/text_summary")] == list(range(1, 10))


def test_a_run_that_begins_to_be_watched_under_way_shows_what_it_logged_before(tmp_path: Path) -> None:
    process(tmp_path, "none", after=0, until=4)
    process(tmp_path, "tensorboard", after=4, until=6)
    seen = EventAccumulator(str(tmp_path / "tensorboard"))
    seen.Reload()
    assert [point.step for point in seen.Scalars("loss")] == [1, 2, 3, 4, 5, 6]


def test_texts_of_a_table_are_no_marks_of_tensorboard(tmp_path: Path) -> None:
    tracker = opened(tmp_path, "tensorboard")
    tracker.table("samples", [{"prompt": "a|b\n<script>x</script> *y*", "score": 1 / 3}], 1)
    tracker.finish({})
    seen = EventAccumulator(str(tmp_path / "tensorboard"))
    seen.Reload()
    text = seen.Tensors("samples/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.splitlines()[2] == "| a&#124;b<br>&#60;script&#62;x&#60;/script&#62; &#42;y&#42; | 0.3333 |"
